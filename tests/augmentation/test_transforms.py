"""Each transform beside batchgeneratorsv2's, with the parameters that that has drawn."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform

from nnunet_topomae.augmentation.pipeline import split_pipeline

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
TRANSFORMS = {
    "blur, each channel and axis by its own": GaussianBlurTransform((0.3, 3.0), False, False, 0.7),
    "blur, channels alike": GaussianBlurTransform(1.3, True, True, 0.7),
    "blur, the faster of FFT and convolution": GaussianBlurTransform((0.5, 1.0), benchmark=True),
    "mask": MaskImageTransform([0, 2], set_outside_to=-7),
    "remove a label": RemoveLabelTransform(-1, 0),
    "remove a label of one channel": RemoveLabelTransform(2, 5, segmentation_channels=0),
    "regions": ConvertSegmentationToRegionsTransform([(1, 2), 2, (0, 1, 3)]),
}
LABEL_MODES = {
    "constant": {"border_mode_seg": "constant", "padding_value_seg": -1},
    "zeros": {"border_mode_seg": "zeros"},
    "border": {"border_mode_seg": "border"},
    "nearest": {"mode_seg": "nearest", "border_mode_seg": "constant", "padding_value_seg": -1},
    "scores in one array": {"border_mode_seg": "constant", "padding_value_seg": -1, "bg_style_seg_sampling": True},
}


def sample(*sides: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(3, *sides, generator=generator),
        "segmentation": torch.randint(-1, 4, (1, *sides), generator=generator, dtype=torch.int16),
    }


def applied(transform, sides: tuple[int, ...], device: str, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    np.random.seed(seed)
    transformed = transform(**{name: value.to(device) for name, value in sample(*sides).items()})
    return {name: value.cpu() for name, value in transformed.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sides", [(9, 12, 15), (20, 17)], ids=["3D", "2D"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_gives_what_batchgeneratorsv2_gives(name, sides, device):
    expected = applied(TRANSFORMS[name], sides, "cpu")
    found = applied(split_pipeline(TRANSFORMS[name]).on_device, sides, device)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sides", [(9, 12, 15), (20, 17)], ids=["3D", "2D"])
@pytest.mark.parametrize("mode", LABEL_MODES)
def test_noisy_labels_are_rotated_and_scaled_as_by_batchgeneratorsv2(mode, sides, device):
    """Each voxel has another label than its neighbours: the hardest case, also for what counts as a tie."""
    patch_size = tuple(side - 4 for side in sides)
    options = {"p_rotation": 1, "rotation": (-3.0, 3.0), "p_scaling": 1, "scaling": (0.5, 2.0)} | LABEL_MODES[mode]
    theirs = SpatialTransform(patch_size, 0, False, **options)
    ours = split_pipeline(theirs).on_device
    other = total = 0
    for seed in range(10):
        expected, found = applied(theirs, sides, "cpu", seed), applied(ours, sides, device, seed)
        torch.testing.assert_close(found["image"], expected["image"], rtol=1e-5, atol=2e-5)
        other += (found["segmentation"] != expected["segmentation"]).sum().item()
        total += expected["segmentation"].numel()
    assert other <= 2e-3 * total  # corners whose shares differ by a rounding error of half precision


def test_exact_ties_go_the_way_of_batchgeneratorsv2():
    """Twice as fine on sides that are powers of two: no rounding, and many points half way between two voxels."""
    theirs = SpatialTransform((12, 14, 10), 0, False, p_scaling=1, scaling=0.5, border_mode_seg="constant")
    expected, found = (
        applied(transform, (8, 16, 4), "cpu")["segmentation"]
        for transform in (theirs, split_pipeline(theirs).on_device)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("synchronised", [True, False])
def test_noise_has_the_standard_deviation_that_was_drawn(synchronised):
    theirs = GaussianNoiseTransform((0.5, 2.0), p_per_channel=0.6, synchronize_channels=synchronised)
    ours = split_pipeline(theirs).on_device
    expected, found = (applied(transform, (9, 12, 15), "cpu", seed=3)["image"] for transform in (theirs, ours))
    torch.testing.assert_close(found, expected)
    assert (found != sample(9, 12, 15)["image"]).any()

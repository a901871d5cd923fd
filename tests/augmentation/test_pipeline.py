"""nnU-Net's own pipelines beside their halves for data workers and the device, from the same seeds."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from nnunet_topomae.augmentation.pipeline import UnknownTransformError, split_pipeline

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
SCALES = [[1, 1, 1], [0.5, 0.5, 0.5], [0.25, 0.5, 0.5]]
# By name: settings of nnU-Net's pipeline, channels, the labels that occur.
PLANS = {
    "3D": ({}, 1, [0, 1, 2]),
    "3D, without deep supervision": ({"deep_supervision_scales": None}, 1, [0, 1, 2]),
    "anisotropic": ({"do_dummy_2d_data_aug": True, "patch_size": (6, 20, 18)}, 2, [0, 1, 2]),
    "four channels, two with a normalisation mask": ({"use_mask_for_norm": [True, False, True, False]}, 4, [-1, 0, 1]),
    "regions": ({"regions": [(1, 2, 3), (2, 3), 3]}, 1, [0, 1, 2, 3]),
    "regions, ignore label": ({"regions": [(1, 2), 2], "ignore_label": 3}, 1, [0, 1, 2, 3]),
    "many labels, ignore label": ({"ignore_label": 12}, 1, list(range(13))),
    "no mirroring": ({"mirror_axes": None}, 1, [0, 1]),
}


def nnunet_pipeline(patch_size=(16, 20, 18), do_dummy_2d_data_aug=False, always=False, **settings) -> ComposeTransforms:
    """nnU-Net's; with `always` each transform is applied to each sample."""
    settings = {"mirror_axes": (0, 1, 2), "deep_supervision_scales": SCALES} | settings
    angle = np.pi if do_dummy_2d_data_aug else np.pi / 6
    pipeline = nnUNetTrainer.get_training_transforms(
        patch_size, (-angle, angle), do_dummy_2d_data_aug=do_dummy_2d_data_aug, **settings
    )
    for transform in pipeline.transforms if always else ():
        if isinstance(transform, SpatialTransform):
            transform.p_rotation = transform.p_scaling = 1
        if isinstance(transform, RandomTransform):
            transform.apply_probability = 1
            transform.transform.benchmark = False  # of the blur: not by the clock whether by FFT
    return pipeline


def planned(name: str) -> tuple[dict, Callable[[int], dict[str, torch.Tensor]]]:
    """Of `PLANS`: the settings, and samples by number."""
    settings, channels, labels = PLANS[name]
    sides = (6, 29, 27) if settings.get("do_dummy_2d_data_aug") else (25, 29, 27)
    return settings, lambda number: smooth_sample(channels, labels, sides, number)


def smooth_sample(channels: int, labels: list[int], sides=(25, 29, 27), seed=0) -> dict[str, torch.Tensor]:
    """An image, and labels in blobs that touch each other."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, channels + len(labels), 6, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, sides, mode="trilinear")[0]
    noise = 0.1 * torch.randn(channels, *sides, generator=generator)
    segmentation = torch.tensor(labels, dtype=torch.int16)[fine[channels:].argmax(0)][None]
    return {"image": fine[:channels] + noise, "segmentation": segmentation}


def seed(number: int) -> None:
    np.random.seed(number)
    torch.manual_seed(number)


def both(pipeline: BasicTransform, sample: dict, number: int, device="cpu") -> tuple[dict, dict]:
    """The sample by nnU-Net, and by the two halves."""
    seed(number)
    theirs = pipeline(**{name: value.clone() for name, value in sample.items()})
    in_worker, on_device = split_pipeline(pipeline)
    seed(number)
    halfway = in_worker(**{name: value.clone() for name, value in sample.items()})
    ours = on_device(**{name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in halfway.items()})
    return theirs, ours


def assert_equal(ours: dict, theirs: dict) -> None:
    """Images to 1e-5 of their range; of the labels one in ten thousand may differ, where two are as good as tied."""
    assert ours.keys() == theirs.keys()
    image, expected = ours["image"].cpu(), theirs["image"]
    assert image.shape == expected.shape and image.dtype == expected.dtype
    assert (image - expected).abs().max() <= 1e-5 * (expected.max() - expected.min())
    for segmentation, of_nnunet in zip(as_list(ours), as_list(theirs), strict=True):
        assert segmentation.shape == of_nnunet.shape and segmentation.dtype == of_nnunet.dtype
        assert (segmentation.cpu() != of_nnunet).float().mean() <= 1e-4


def as_list(sample: dict) -> list[torch.Tensor]:
    return sample["segmentation"] if isinstance(sample["segmentation"], list) else [sample["segmentation"]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("always", [True, False], ids=["each transform", "nnU-Net's odds"])
def test_the_halves_give_what_nnunet_gives(name, always, device):
    settings, sample_of = planned(name)
    pipeline = nnunet_pipeline(always=always, **settings)
    if device != "cpu":
        pipeline.transforms = [t for t in pipeline.transforms if "GaussianNoise" not in repr(t)]  # other generators
    for number in range(2 if always else 6):
        theirs, ours = both(pipeline, sample_of(number), number, device)
        assert_equal(ours, theirs)


class PretendedGPU(TorchFunctionMode):
    """Tensors made on "cuda" have no values that could be read, and refuse company on the CPU but for numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self.fake if "cuda" in str(kwargs.get("device")) else nullcontext():
            return function(*args, **kwargs)


@pytest.mark.parametrize("name", PLANS)
def test_nothing_reads_the_device_or_mixes_it_with_the_host(name):
    settings, sample_of = planned(name)
    in_worker, on_device = split_pipeline(nnunet_pipeline(always=True, **settings))
    seed(0)
    sample = in_worker(**sample_of(0))
    with PretendedGPU():
        sample |= {
            entry: torch.empty(sample[entry].shape, dtype=sample[entry].dtype, device="cuda")
            for entry in ("image", "segmentation")
        }
        augmented = on_device(**sample)
    assert all(part.device.type == "cuda" for part in (augmented["image"], *as_list(augmented)))


def test_a_sample_that_is_only_cropped_leaves_the_worker_small():
    pipeline, sample = nnunet_pipeline(), smooth_sample(1, [0, 1], (40, 40, 40))
    in_worker, _ = split_pipeline(pipeline)
    sizes = []
    for number in range(100):
        seed(number)
        halfway = in_worker(**sample)
        stored = halfway["image"].untyped_storage().nbytes() // 4
        assert stored == (16 * 20 * 18 if halfway["warp"] is None else 40**3)
        sizes.append(stored)
    assert 0.2 < sizes.count(40**3) / 100 < 0.5  # 1 - 0.8² = 0.36


def test_a_pipeline_that_begins_otherwise_is_done_on_the_device_alone():
    pipeline = nnunet_pipeline(always=True)
    pipeline.transforms.insert(0, GammaTransform((0.9, 1.1), 0, False, 1, 1))
    theirs, ours = both(pipeline, smooth_sample(1, [0, 1, 2]), 0)
    assert not split_pipeline(pipeline).in_worker.transforms
    assert_equal(ours, theirs)


def test_nested_choices_are_followed():
    gammas = [GammaTransform((a, b), 0, False, 1, 1) for a, b in ((0.6, 0.8), (1.2, 1.5))]
    pipeline = ComposeTransforms([ComposeTransforms([RandomTransform(OneOfTransform(gammas), 0.7)])])
    for number in range(6):
        theirs, ours = both(pipeline, {"image": torch.rand(1, 4, 5, 6)}, number)
        torch.testing.assert_close(ours["image"], theirs["image"])


class Inverted(ImageOnlyTransform):
    def _apply_to_image(self, img, **params):
        return -img


@pytest.mark.parametrize(
    "transform, named",
    [
        (Inverted(), "the transform Inverted"),
        (RandomTransform(BrightnessAdditiveTransform(0, 1), 0.1), "the transform BrightnessAdditiveTransform"),
        (GammaTransform(lambda image, channel: image.mean(), 0, False, 1, 1), "a function for gamma"),
        (SpatialTransform((4, 4, 4), 0, False, p_elastic_deform=0.5), "p_elastic_deform=0.5"),
        (SpatialTransform((4, 4, 4), 0, False, mode_seg="bicubic"), "mode_seg='bicubic'"),
    ],
)
def test_what_is_not_known_to_be_safe_is_named_with_what_to_do(transform, named):
    pipeline = nnunet_pipeline()
    pipeline.transforms.append(transform)
    with pytest.raises(UnknownTransformError, match=f"{named}.*NNUNET_TOPOMAE_AUGMENT_ON=workers"):
        split_pipeline(pipeline)

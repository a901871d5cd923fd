"""Every voxel of the test volumes is marked with its own coordinates, and followed through the pipeline."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from nnunet_topomae.data.crop_place import RandomPlace, Resample
from nnunet_topomae.data.dataloading import CropDataLoader, CropPositionDataLoader, collate_crops, thread_pools

LABELS = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)


class Volumes:
    """A data set in nnU-Net's interface whose labels cannot be read."""

    def __init__(self, **volumes: np.ndarray):
        self.volumes = volumes
        self.identifiers = list(volumes)

    def load_case(self, key):
        return self.volumes[key], None, None, None


def coordinate_volume(*shape: int) -> np.ndarray:
    """[3, *shape]: channel a holds the voxel's index along axis a, plus 1 to tell it from padding."""
    return np.stack(np.meshgrid(*(np.arange(1.0, side + 1) for side in shape), indexing="ij")).astype(np.float32)


def loader(volume: np.ndarray, crop_size, patch_size, place=None, labels=LABELS) -> CropPositionDataLoader:
    return CropPositionDataLoader(
        Volumes(case=volume), 4, crop_size, patch_size, labels, transforms=Resample(patch_size), random_place=place
    )


def assert_every_voxel_is_where_it_says(batch: dict, volume_shape, tolerance: float) -> None:
    """A voxel inside the volume must carry the coordinates that crop_to_volume gives it; padding must lie outside."""
    patch_size = batch["data"].shape[2:]
    index = torch.stack(torch.meshgrid(*(torch.arange(s) for s in patch_size), indexing="ij")).double().flatten(1)
    shape = torch.tensor(volume_shape)[:, None]
    inside_voxels = 0
    for image, to_volume in zip(batch["data"], batch["crop_to_volume"], strict=True):
        claimed = to_volume[:, :3] @ index + to_volume[:, 3:]
        inside = ((claimed >= 0) & (claimed <= shape - 1)).all(0)
        outside = ((claimed <= -1) | (claimed >= shape)).any(0)
        found = image.flatten(1).double() - 1
        assert (found - claimed)[:, inside].abs().max() <= tolerance
        assert (image.flatten(1)[:, outside] == 0).all()
        inside_voxels += int(inside.sum())
    assert inside_voxels > 0


@pytest.mark.parametrize("shape", [(20, 24, 28), (9, 30, 7), (16, 16, 16)], ids=["larger", "thin", "equal"])
def test_plain_crops_are_exact_also_where_they_reach_outside(shape):
    np.random.seed(0)
    batch = next(loader(coordinate_volume(*shape), (16, 16, 16), (16, 16, 16)))
    assert_every_voxel_is_where_it_says(batch, shape, tolerance=0)


@pytest.mark.parametrize("patch_size", [(8, 12, 10), (9, 11, 10)], ids=["even", "odd"])
@pytest.mark.parametrize("augmentation", ["crop", "rotate", "scale", "both", "in plane"])
def test_voxels_are_followed_through_every_augmentation(augmentation, patch_size):
    np.random.seed(1)
    torch.manual_seed(1)
    probabilities = [float(augmentation in (one, "both", "in plane")) for one in ("rotate", "scale")]
    in_plane = augmentation == "in plane"
    crop_size = (patch_size[0], 17, 16) if in_plane else (15, 17, 16)
    place = RandomPlace(crop_size, patch_size, (-0.5, 0.5), in_plane, *probabilities)

    batch = next(loader(coordinate_volume(30, 25, 20), crop_size, patch_size, place))
    assert batch["data"].shape == (4, 3, *patch_size) and batch["points"].shape == (4, 9, 3)
    # Trilinear interpolation is exact on coordinates, but for rounding, and but for samples that mix in the padding
    # around the larger crop: those are where rotation and scaling reach over its border.
    if augmentation == "crop":
        assert_every_voxel_is_where_it_says(batch, (30, 25, 20), tolerance=0)
    else:
        assert_centre_voxels_are_where_they_say(batch, tolerance=1e-4)


def test_the_device_gives_the_crops_and_points_of_the_workers():
    """By samples that a data worker only draws and reads."""
    sizes = _, patch_size = (15, 17, 16), (8, 12, 10)
    place = RandomPlace(*sizes, (-0.5, 0.5), False, 0.5, 0.5)
    volume = np.random.default_rng(0).normal(size=(2, 30, 25, 20)).astype(np.float32)
    np.random.seed(3)
    expected = next(loader(volume, *sizes, place))
    np.random.seed(3)
    samples = next(CropDataLoader(Volumes(case=volume), 4, *sizes, LABELS, random_place=place))["samples"]
    found = collate_crops([Resample(patch_size)(**sample) for sample in samples], patch_size)
    for name in ("data", "points", "crop_to_volume", "volume_shape"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def assert_centre_voxels_are_where_they_say(batch: dict, tolerance: float) -> None:
    patch_size = torch.tensor(batch["data"].shape[2:])
    followed = 0
    for image, to_volume in zip(batch["data"], batch["crop_to_volume"], strict=True):
        for offset in ([0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 1, 1]):
            voxel = patch_size // 2 + torch.tensor(offset)
            claimed = to_volume[:, :3] @ voxel.double() + to_volume[:, 3]
            if (claimed < 0).any() or (claimed > torch.tensor([29.0, 24, 19])).any():
                continue
            found = image[(slice(None), *voxel)].double() - 1
            assert (found - claimed).abs().max() < tolerance
            followed += 1
    assert followed > 0


def test_a_batch_has_the_points_of_its_crops_and_says_of_what_they_are():
    np.random.seed(0)
    place = RandomPlace((9, 10, 11), (4, 6, 8), (-0.5, 0.5), False, 1.0, 1.0)
    batch = next(loader(coordinate_volume(18, 19, 20), (9, 10, 11), (4, 6, 8), place))
    linear, offset = batch["crop_to_volume"].split([3, 1], dim=2)
    middle = (linear @ torch.tensor([1.5, 2.5, 3.5]).double()[:, None] + offset)[..., 0]
    expected = (middle + 0.5) / torch.tensor([18, 19, 20])  # a voxel's middle is half a voxel from its edge
    torch.testing.assert_close(batch["points"][:, 0], expected.float(), rtol=0, atol=1e-5)
    assert batch["volume_shape"].tolist() == [[18, 19, 20]] * 4 and list(batch["keys"]) == ["case"] * 4


def test_an_ignore_label_does_not_make_labels_matter():
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=True)
    next(loader(coordinate_volume(10, 12, 14), (8, 8, 8), (8, 8, 8), labels=labels))  # reading them would fail


def test_a_constant_crop_is_drawn_again_unless_the_volume_is():
    volume = np.zeros((1, 32, 8, 8), np.float32)
    volume[:, 20:] = np.random.default_rng(0).normal(size=(1, 12, 8, 8))
    for image in next(loader(volume, (8, 8, 8), (8, 8, 8)))["data"]:
        assert image.min() < image.max()
    batch = next(loader(np.full((1, 20, 20, 20), 3.0, np.float32), (8, 8, 8), (8, 8, 8)))
    assert (batch["data"] == 3).any(dim=(1, 2, 3, 4)).all()


def test_nan_is_an_error_that_names_the_case():
    volume = coordinate_volume(10, 10, 10)
    volume[0, 5, 5, 5] = np.nan
    with pytest.raises(ValueError, match="case case: the image holds NaN or infinity"):
        next(loader(volume, (10, 10, 10), (10, 10, 10)))


@pytest.mark.parametrize("loader_class", [CropPositionDataLoader, CropDataLoader])
def test_a_batch_is_drawn_on_one_thread_a_pool(loader_class):
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info()}

    class Watched(Volumes):
        def load_case(self, key):
            assert threads() == {1}
            return super().load_case(key)

    watched = Watched(case=coordinate_volume(16, 16, 16))
    thread_pools.cache_clear()  # other tests may have loaded libraries since
    with threadpool_limits(2):
        next(loader_class(watched, 1, (8, 8, 8), (8, 8, 8), LABELS))
        assert threads() == {2}

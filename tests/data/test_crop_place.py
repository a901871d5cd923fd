"""Crops of which only what they need is read, beside those of nnU-Net's own loader and transform."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_topomae.data.crop_place import RandomPlace, Resample
from nnunet_topomae.data.dataloading import CropPositionDataLoader

LABELS = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
PATCH, CROP, ANGLES = (8, 12, 10), (15, 17, 16), (-0.5, 0.5)


class Watched:
    """A volume that counts the voxels that are read of it."""

    def __init__(self, voxels: np.ndarray):
        self.voxels, self.shape, self.read = voxels, voxels.shape, 0

    def __getitem__(self, box):
        self.read += self.voxels[box].size
        return self.voxels[box]


class OneCase:
    identifiers = ("case",)

    def __init__(self, *shape: int):
        self.image = Watched(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))

    def load_case(self, key):
        return self.image, np.zeros((1, *self.image.shape[1:]), np.int8), None, {"class_locations": {}}


def nnunets(case: OneCase, crop_size, in_plane: bool, rotates: float, scales: float) -> nnUNetDataLoader:
    """The larger crop is read whole, then rotated, scaled and cut as nnUNetTrainer does."""
    options = {"p_rotation": rotates, "rotation": ANGLES, "p_scaling": scales, "scaling": (0.7, 1.4)}
    patch = PATCH[1:] if in_plane else PATCH
    spatial = SpatialTransform(patch, 0, False, p_synchronize_scaling_across_axes=1, **options)
    pseudo_2d = ComposeTransforms([Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()])
    transforms = pseudo_2d if in_plane else spatial
    return nnUNetDataLoader(case, 4, crop_size, PATCH, LABELS, transforms=transforms)


def ours(case: OneCase, crop_size, *augmentation) -> CropPositionDataLoader:
    place = RandomPlace(crop_size, PATCH, ANGLES, *augmentation)
    return CropPositionDataLoader(case, 4, crop_size, PATCH, LABELS, transforms=Resample(PATCH), random_place=place)


@pytest.mark.parametrize("shape", [(30, 25, 20), (15, 17, 16), (9, 30, 7)], ids=["large", "as the crop", "thin"])
@pytest.mark.parametrize("in_plane", [False, True], ids=["3D", "in plane"])
@pytest.mark.parametrize("rotates, scales", [(0, 0), (1, 0), (0, 1), (1, 1), (0.2, 0.2)])
def test_crops_are_those_of_nnunet_and_less_is_read(rotates, scales, in_plane, shape):
    """From the same seed: the same places, odds, angles and scales, and zeros where nnU-Net has them."""
    crop_size = (PATCH[0], *CROP[1:]) if in_plane else CROP
    for seed in range(5):
        read = []
        for loader_of in (nnunets, ours):
            case = OneCase(*shape)
            np.random.seed(seed)
            read.append((next(loader_of(case, crop_size, in_plane, rotates, scales))["data"], case.image.read))
        (expected, all_voxels), (found, voxels) = read
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * (expected.max() - expected.min()).item())
        assert voxels <= all_voxels


def test_of_a_crop_that_is_only_cut_the_patch_is_read():
    case = OneCase(30, 25, 20)
    next(ours(case, CROP, False, 0, 0))
    assert case.image.read == 4 * 2 * np.prod(PATCH)


def test_cases_are_opened_once():
    case = OneCase(30, 25, 20)
    opened = []
    case.load_case = lambda key: opened.append(key) or OneCase.load_case(case, key)
    loader = ours(case, CROP, False, 0.2, 0.2)
    for _ in range(3):
        next(loader)
    assert opened == ["case"]

"""Spatial augmentation of pre-training crops that keeps account of where each voxel came from.

The voxels are moved by batchgeneratorsv2's own transform; the subclass here only composes the same motion into the
sample's `crop_to_volume` map (`pretext/position.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform

from nnunet_topomae.pretext.position import compose
from nnunet_topomae.private_names import drawn_motion


class TrackedSpatialTransform(SpatialTransform):
    """Rotation, scaling and centre crop. On a pseudo-2D image it acts in the last two axes of the crop only."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        shape = torch.tensor(data_dict["image"].shape[1:], dtype=torch.float64)
        size = torch.tensor([float(side) for side in self.patch_size], dtype=torch.float64)
        data_dict = super().apply(data_dict, **params)
        affine, crop_centre = drawn_motion(params)
        if affine is None:
            linear = torch.eye(len(size), dtype=torch.float64)
            centre = torch.tensor([math.floor(c) for c in crop_centre], dtype=torch.float64)
            offset = centre - torch.floor(size / 2)
        else:
            linear = torch.from_numpy(affine)
            offset = (shape - 1) / 2 - linear @ ((size - 1) / 2)
        data_dict["crop_to_volume"] = compose(data_dict["crop_to_volume"], *_in_three_dimensions(linear, offset))
        return data_dict


def pretraining_transforms(
    patch_size: Sequence[int],
    rotation: tuple[float, float],
    in_plane_only: bool,
    rotation_probability: float,
    scaling_probability: float,
) -> BasicTransform:
    """From a larger crop to a patch: rotation and scaling (nnU-Net's ranges), centre crop.

    Args:
        patch_size: the patch, [3].
        rotation: range of the angles in radians.
        in_plane_only: rotate and scale in the last two axes only, as nnU-Net does for anisotropic patches.
        rotation_probability, scaling_probability: per crop.
    """
    spatial = TrackedSpatialTransform(
        tuple(patch_size[1:] if in_plane_only else patch_size),
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=rotation_probability,
        rotation=rotation,
        p_scaling=scaling_probability,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
    )
    in_plane: list[BasicTransform] = [Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()]
    return ComposeTransforms(in_plane if in_plane_only else [spatial])


def _in_three_dimensions(linear: torch.Tensor, offset: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    untouched = 3 - len(offset)
    return torch.block_diag(torch.eye(untouched, dtype=torch.float64), linear), torch.cat(
        [torch.zeros(untouched), offset]
    )

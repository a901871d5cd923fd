"""The position pretext task: where in the whole volume do the crop's centre and its eight corners lie?

A crop knows its place by an affine map from its own voxel indices to those of the volume (`crop_to_volume`, [3, 4]).
Every spatial augmentation composes its own map with it, so the nine targets follow any rotation, scaling and mirroring
exactly. Indices are at voxel centres: voxel i of an axis covers [i - 1/2, i + 1/2].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch

NUM_POINTS = 9  # the crop's centre and its eight corners
LENGTH = 100.0  # mm


def crop_at(lower: Sequence[int]) -> torch.Tensor:
    """The map [3, 4] of an unaugmented crop whose voxel (0, 0, 0) is the volume's voxel `lower` (may be negative)."""
    return torch.cat([torch.eye(3), torch.as_tensor(lower, dtype=torch.float32)[:, None]], dim=1).double()


def compose(crop_to_volume: torch.Tensor, linear: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """The map after a transform whose output voxel o shows the input's voxel `linear @ o + offset`."""
    rotation, origin = crop_to_volume[:, :3], crop_to_volume[:, 3]
    return torch.cat([rotation @ linear, (rotation @ offset + origin)[:, None]], dim=1)


def nine_points(crop_to_volume: torch.Tensor, patch_size: Sequence[int], volume_shape: Sequence[int]) -> torch.Tensor:
    """Centre and eight corners of a crop, in coordinates of the whole volume.

    The corners are those of the crop's outermost voxels, in the order of binary numbers (last axis fastest).

    Args:
        crop_to_volume: [3, 4], voxel indices of the crop to voxel indices of the volume.
        patch_size: voxels of the crop per axis.
        volume_shape: voxels of the volume per axis.

    Returns:
        [9, 3] float32. Each axis is scaled such that the volume spans [0, 1]; a crop may reach outside of it.
    """
    size = torch.as_tensor(patch_size, dtype=torch.float64)
    corners = torch.tensor(list(product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    points = torch.cat([torch.full((1, 3), 0.5, dtype=torch.float64), corners]) * size - 0.5
    in_volume = points @ crop_to_volume[:, :3].T + crop_to_volume[:, 3]
    return ((in_volume + 0.5) / torch.as_tensor(volume_shape, dtype=torch.float64)).float()


def from_centre(points: torch.Tensor, volume_shape: torch.Tensor, spacing: torch.Tensor) -> torch.Tensor:
    """What the networks are asked for: where points lie from the centre of their volume, in units of `LENGTH` mm.

    Coordinates of the volume would ask for its extent as well, which is not to be seen in a crop, or, where padding
    shows it, nothing but it.

    Args:
        points: [B, 9, 3], in coordinates of the volume (`nine_points`).
        volume_shape: [B, 3], voxels.
        spacing: [3], mm a voxel.
    """
    return (points - 0.5) * (volume_shape * spacing / LENGTH)[:, None]


def in_volume(places: torch.Tensor, volume_shape: torch.Tensor, spacing: torch.Tensor) -> torch.Tensor:
    """The points in coordinates of the volume of places as of `from_centre`."""
    return places / (volume_shape * spacing / LENGTH)[:, None] + 0.5

"""Where a pre-training crop is taken from, drawn before a voxel is read: little more than the patch is read then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from torch.nn.functional import grid_sample

from nnunet_topomae.augmentation.spatial import Warp, draw_warp, sampling_grid
from nnunet_topomae.pretext.position import compose, crop_at


class Place(NamedTuple):
    """Of a crop in its volume.

    Attributes:
        box: first voxel, and that behind the last, of what is read, by axis; it may reach outside.
        warp: how the patch is resampled from the box, in the last two or all three axes; None: the box is the patch.
        crop_to_volume: [3, 4], from the patch's voxel indices to the volume's (`pretext/position.py`).
    """

    box: list[list[int]]
    warp: Warp | None
    crop_to_volume: torch.Tensor


def place_at(lower: Sequence[int], patch_size: Sequence[int]) -> Place:
    """Of a patch that is neither rotated nor scaled, by its first voxel."""
    return Place([[low, low + side] for low, side in zip(lower, patch_size, strict=True)], None, crop_at(lower))


class RandomPlace:
    """nnU-Net's rotation and scaling of a larger crop, and the patch in its middle; drawn by batchgeneratorsv2.

    Args:
        crop_size: of nnU-Net's larger crop, [3]: all beyond its border is zero to the patch.
        patch_size: [3].
        rotation: range of the angles in radians.
        in_plane_only: rotate and scale in the last two axes only, as nnU-Net does for anisotropic patches.
        rotation_probability, scaling_probability: per crop.
    """

    def __init__(
        self,
        crop_size: Sequence[int],
        patch_size: Sequence[int],
        rotation: tuple[float, float],
        in_plane_only: bool,
        rotation_probability: float,
        scaling_probability: float,
    ) -> None:
        self.crop_size, self.patch_size = np.array(crop_size), np.array(patch_size)
        self.moved = np.arange(3) >= in_plane_only  # axes
        self._spatial = SpatialTransform(
            tuple(self.patch_size[self.moved]),
            patch_center_dist_from_border=0,
            random_crop=False,
            p_rotation=rotation_probability,
            rotation=rotation,
            p_scaling=scaling_probability,
            scaling=(0.7, 1.4),
            p_synchronize_scaling_across_axes=1,
        )

    def draw(self, lower: Sequence[int], volume_shape: Sequence[int]) -> Place:
        """The next one in the larger crop whose first voxel is the volume's voxel `lower`."""
        affine = draw_warp(self._spatial, torch.zeros(()).expand(1, *self.crop_size[self.moved])).affine
        if affine is None:
            return place_at((lower + self.crop_size // 2 - self.patch_size // 2).tolist(), self.patch_size.tolist())
        linear = np.eye(3)
        linear[np.ix_(self.moved, self.moved)] = affine
        middle, radius = (self.crop_size - 1) / 2, (self.patch_size - 1) / 2
        reach = np.abs(linear) @ radius
        # Along these axes resampling adds the zeros beyond the larger crop and beyond the volume: none is read.
        begin = np.where(self.moved, np.maximum(0, np.negative(lower)), 0)
        border = np.where(self.moved, np.minimum(self.crop_size, np.subtract(volume_shape, lower)), self.crop_size)
        first = np.maximum(begin, np.floor(middle - reach).astype(int))
        end = np.minimum(border, np.ceil(middle + reach).astype(int) + 1)
        warp = Warp(affine, tuple((self.crop_size / 2 - first)[self.moved]))
        offset = torch.from_numpy(middle - linear @ radius)
        to_volume = compose(crop_at(lower), torch.from_numpy(linear), offset)
        return Place(np.stack([lower + first, lower + end], axis=1).tolist(), warp, to_volume)


class Resample(BasicTransform):
    """Takes the patch out of what was read of the volume, wherever that lies, and the sample's `warp` off it."""

    def __init__(self, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)

    def apply(self, sample: dict[str, Any], **params: Any) -> dict[str, Any]:
        warp, image = sample.pop("warp"), sample["image"]
        if warp is None:
            return sample
        axes = len(warp.affine)
        grid = sampling_grid(warp.affine, warp.centre, self.patch_size[-axes:], image.shape[-axes:], image.device)
        planes = image.reshape(1, -1, *image.shape[-axes:])  # what is not moved along is as channels are
        patch = grid_sample(planes, grid[None], align_corners=False).reshape(len(image), *self.patch_size)
        return {**sample, "image": patch}

"""Rotation, scaling and crop: drawn by a data worker, done on the device."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

from nnunet_topomae.augmentation.labels import resample_labels
from nnunet_topomae.private_names import drawn_motion


@dataclass(frozen=True)
class Warp:
    """Where the voxels of a patch come from: `affine` · (voxel − middle of the patch) + `centre`, in voxels.

    No named tuple, which batchgenerators makes a tuple of when it pins a batch's memory.
    """

    affine: np.ndarray | None  # [axes, axes]; None: nothing is rotated or scaled
    centre: tuple[float, ...]


class DrawWarp(BasicTransform):
    """The data worker's half of a `SpatialTransform`. It crops wherever that is all, so that little is handed on.

    The sample gets an entry `warp`, which `DeviceSpatialTransform` takes out again; None if all is done.
    """

    def __init__(self, transform: SpatialTransform) -> None:
        super().__init__()
        self.transform = transform

    def get_parameters(self, **sample: Any) -> dict[str, Any]:
        return {"warp": draw_warp(self.transform, sample["image"])}

    def apply(self, sample: dict[str, Any], warp: Warp) -> dict[str, Any]:
        if warp.affine is not None:
            return {**sample, "warp": warp}
        sample = self.transform.apply(sample, **_parameters(self.transform, sample["image"], warp))
        for name in {"image", "segmentation"} & set(sample):
            sample[name] = sample[name].clone()  # else the whole crop would travel along with its part
        return {**sample, "warp": None}


class DeviceSpatialTransform(SpatialTransform):
    """Samples image and labels where they lie. What a data worker has drawn is used, else it is drawn here."""

    def get_parameters(self, **sample: Any) -> dict[str, Any]:
        return {"warp": sample["warp"] if "warp" in sample else draw_warp(self, sample["image"])}

    def apply(self, sample: dict[str, Any], warp: Warp | None) -> dict[str, Any]:
        sample.pop("warp", None)
        return sample if warp is None else super().apply(sample, **_parameters(self, sample["image"], warp))

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        if params["grid"] is None or self.mode_seg == "nearest":
            return super()._apply_to_segmentation(segmentation, **params)
        outside = {"constant": self.padding_value_seg, "zeros": 0, "border": None}[self.border_mode_seg]
        return resample_labels(segmentation, params["grid"], outside)


def refusal(transform: SpatialTransform) -> str | None:
    """What of a transform's settings cannot be done on a device."""
    by_votes = transform.mode_seg == "bilinear"
    unknown = {
        "p_elastic_deform": bool(transform.p_elastic_deform),
        "mode_seg": not by_votes and transform.mode_seg != "nearest",
        "border_mode_seg": by_votes and transform.border_mode_seg not in ("constant", "zeros", "border"),
        "seg_tiebreak": by_votes and getattr(transform, "seg_tiebreak", "nearest") != "nearest",
        "align_corners": transform.align_corners,
    }
    return next((f"{name}={getattr(transform, name)!r}" for name, is_unknown in unknown.items() if is_unknown), None)


def draw_warp(transform: SpatialTransform, image: torch.Tensor) -> Warp:
    """What a transform draws for an image [C, ...], of which only the shape is looked at."""
    without_grid = copy(transform)  # whose grid, made anew on the device, then has a single voxel
    without_grid.patch_size = (1,) * len(transform.patch_size)
    affine, centre = drawn_motion(SpatialTransform.get_parameters(without_grid, image=image))
    return Warp(affine, tuple(centre))


def _parameters(transform: SpatialTransform, image: torch.Tensor, warp: Warp) -> dict[str, Any]:
    """What `SpatialTransform.apply` takes."""
    grid = None
    if warp.affine is not None:
        grid = sampling_grid(warp.affine, warp.centre, transform.patch_size, image.shape[1:], image.device)
    return {"affine": warp.affine, "grid": grid, "center_location_in_pixels": list(warp.centre)}


def sampling_grid(
    affine: np.ndarray, middle: Sequence[float], shape: Sequence[int], sides: Sequence[int], device: torch.device
) -> torch.Tensor:
    """The grid [*shape, axes] of `grid_sample` that takes a patch of `shape` out of an image of `sides`.

    A sum of products instead of a matrix product, which may be rounded to TF32 on a GPU.
    """
    axes = [torch.linspace((1 - side) / 2, (side - 1) / 2, side, device=device) for side in shape]
    coordinates = torch.meshgrid(*axes, indexing="ij")
    rows = []
    for row, centre, side in zip(affine, middle, sides, strict=True):
        terms = [x * float(factor) for x, factor in zip(coordinates, row / (side / 2), strict=True)]
        rows.append(reduce(torch.add, terms) + (centre - side / 2) / (side / 2))
    return torch.stack(rows[::-1], dim=-1)  # grid_sample's first coordinate runs along the last axis

"""A volume seen from farther away: Gaussian means, taken as far apart as the Gaussian is wide."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

REACH = 4  # standard deviations; what lies farther away weighs less than 0.01 %


def low_pass(volumes: Tensor, scale: Sequence[int]) -> Tensor:
    """[..., D, H, W] to [..., ⌈D / scale⌉, ...]: means under a Gaussian of σ = `scale` voxels, `scale` voxels apart.

    An axis of scale 1 stays as it is. At the border the Gaussian is cut off and what is left of it weighs 1, so that a
    constant stays one. A product of matrices, one an axis, whose backward pass is deterministic on CUDA too.
    """
    for axis, step in zip((-3, -2, -1), scale, strict=True):
        if step > 1:
            weights = _gaussian_means(volumes.shape[axis], step, volumes.device, volumes.dtype)
            volumes = (volumes.movedim(axis, -1) @ weights).movedim(-1, axis)
    return volumes


@lru_cache
def _gaussian_means(size: int, step: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[size, ⌈size / step⌉]: the weight of each voxel in each mean. Kept where it is used: no step copies it anew."""
    centres = step * torch.arange(-(-size // step)) + (step - 1) / 2
    distance = (torch.arange(size)[:, None] - centres) / step
    weights = torch.where(distance.abs() <= REACH, torch.exp(-0.5 * distance**2), 0.0)
    with torch.inference_mode(False):  # whoever asks first, the next may want a gradient
        return (weights / weights.sum(dim=0)).to(device, dtype).clone()

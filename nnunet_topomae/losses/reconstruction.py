"""Reconstruction: mean squared error on masked voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

EPSILON = 1e-6


def masked_mean(values: torch.Tensor, voxel_mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` [..., C, D, H, W] over the voxels where `voxel_mask` [..., 1, D, H, W] is True."""
    mask = voxel_mask.to(values.dtype)
    return (values * mask).sum() / (mask.sum() * values.shape[-4])


def reconstruction_loss(
    reconstruction: torch.Tensor,
    target: torch.Tensor,
    voxel_mask: torch.Tensor,
    token_std: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over masked voxels of ((x̂ − x) / σ)², He et al. 2022 (MAE), eq. in section 3.

    Args:
        reconstruction, target: [..., C, D, H, W], intensities; axes that a target lacks are broadcast.
        voxel_mask: [..., 1, D, H, W] bool, True where the networks saw nothing.
        token_std: σ, shaped as the target, of each voxel's token where targets are normalised; else 1.
    """
    error = reconstruction - target
    return masked_mean((error if token_std is None else error / token_std) ** 2, voxel_mask)


def token_statistics(image: torch.Tensor, token_size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each voxel's token, both [B, C, D, H, W], for per-token target normalisation."""
    mean = F.avg_pool3d(image, tuple(token_size))
    mean_of_squares = F.avg_pool3d(image**2, tuple(token_size))
    std = (mean_of_squares - mean**2).clamp_min(EPSILON).sqrt()
    scale = [float(side) for side in token_size]
    return F.interpolate(mean, scale_factor=scale), F.interpolate(std, scale_factor=scale)

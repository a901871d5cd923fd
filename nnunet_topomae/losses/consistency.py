"""Consistency: the two co-trained networks agree. Both terms pull on both networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnunet_topomae.losses.reconstruction import masked_mean


def point_consistency(points_a: torch.Tensor, points_b: torch.Tensor) -> torch.Tensor:
    """Mean over points and axes of (p̂_a − p̂_b)², for [B, 9, 3]."""
    return F.mse_loss(points_a, points_b)


def reconstruction_consistency(a: torch.Tensor, b: torch.Tensor, voxel_mask: torch.Tensor) -> torch.Tensor:
    """Mean over masked voxels of (x̂_a − x̂_b)², for [B, C, D, H, W]; elsewhere the image itself is known."""
    return masked_mean((a - b) ** 2, voxel_mask)

"""Consistency: the two co-trained networks agree. In each crop the worse network moves towards the better one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnunet_topomae.losses.reconstruction import masked_mean


def point_consistency(points_a: torch.Tensor, points_b: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over points and axes of (p̂_a − p̂_b)², for [B, 9, 3]; `target` tells which network is nearer."""
    return F.mse_loss(*only_the_worse_learns(points_a, points_b, target))


def reconstruction_consistency(
    a: torch.Tensor, b: torch.Tensor, target: torch.Tensor, voxel_mask: torch.Tensor
) -> torch.Tensor:
    """Mean over masked voxels of (x̂_a − x̂_b)², for [B, C, D, H, W]; elsewhere the image itself is known."""
    a, b = only_the_worse_learns(a, b, target, voxel_mask)
    return masked_mean((a - b) ** 2, voxel_mask)


def only_the_worse_learns(
    a: torch.Tensor, b: torch.Tensor, target: torch.Tensor, where: torch.Tensor | float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both answers [B, ...], in each row without the gradient of the one whose squared error over `where` is less.

    Pulled symmetrically, the better network would be drawn back to the mistakes of the worse.
    """
    dims = tuple(range(1, a.ndim))
    with torch.no_grad():
        error_a, error_b = (((answer - target) ** 2 * where).sum(dim=dims, keepdim=True) for answer in (a, b))
        a_is_better = error_a < error_b
    return torch.where(a_is_better, a.detach(), a), torch.where(a_is_better, b, b.detach())

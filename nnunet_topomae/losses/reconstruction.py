"""Reconstruction: mean squared error on masked voxels."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnunet_topomae.losses.term import BranchTerm, Target
from nnunet_topomae.networks.copretrain import BranchOutput


def masked_mean(values: torch.Tensor, voxel_mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` [..., C, D, H, W] over the voxels where `voxel_mask` [..., 1, D, H, W] is True."""
    mask = voxel_mask.to(values.dtype)
    return (values * mask).sum() / (mask.sum() * values.shape[-4])


class Reconstruction(BranchTerm):
    """Mean over masked voxels of all views of (x̂ − x)², He et al. 2022 (MAE), section 3."""

    name = "reconstruction"

    def of_branch(self, branch: str, output: BranchOutput, target: Target) -> torch.Tensor:
        return F.mse_loss(output.tokens, target.tokens(views=output.tokens.shape[1]))

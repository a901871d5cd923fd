"""Consistency: the two co-trained networks agree. In each crop the worse network moves towards the better one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnunet_topomae.losses.reconstruction import masked_mean
from nnunet_topomae.losses.term import JointTerm, Target
from nnunet_topomae.networks.copretrain import BranchOutput


class PointConsistency(JointTerm):
    """Mean over points and axes of (p̂_a − p̂_b)²; the true points tell which network is nearer."""

    name = "consistency_points"

    def of_both(self, a: BranchOutput, b: BranchOutput, target: Target) -> torch.Tensor:
        return F.mse_loss(*only_the_worse_learns(a.points[:, 0], b.points[:, 0], target.points))


class ReconstructionConsistency(JointTerm):
    """Mean over masked voxels of (x̂_a − x̂_b)²; elsewhere the image itself is known."""

    name = "consistency_reconstruction"

    def of_both(self, a: BranchOutput, b: BranchOutput, target: Target) -> torch.Tensor:
        hidden = target.hidden[:, 0]
        volumes = only_the_worse_learns(a.reconstruction[:, 0], b.reconstruction[:, 0], target.image, hidden)
        return masked_mean((volumes[0] - volumes[1]) ** 2, hidden)


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

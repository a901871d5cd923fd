"""Consistency: the two co-trained networks agree. In each crop the worse network moves towards the better one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nnunet_topomae.losses.term import JointTerm, Target
from nnunet_topomae.networks.copretrain import BranchOutput


class PointConsistency(JointTerm):
    """Mean over points and axes of (p̂_a − p̂_b)²; the true points tell which network is nearer."""

    name = "consistency_points"

    def of_both(self, output: BranchOutput, other: BranchOutput, target: Target) -> torch.Tensor:
        return pull_of_the_better(output.points[:, 0], other.points[:, 0], target.points)


class ReconstructionConsistency(JointTerm):
    """Mean over masked voxels of (x̂_a − x̂_b)²; elsewhere the image itself is known."""

    name = "consistency_reconstruction"

    def of_both(self, output: BranchOutput, other: BranchOutput, target: Target) -> torch.Tensor:
        return pull_of_the_better(output.tokens[:, 0], other.tokens[:, 0], target.tokens(views=1)[:, 0])


def pull_of_the_better(answer: torch.Tensor, other: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two answers [B, ...], with a gradient in the rows where the first is the worse one.

    Pulled symmetrically, the better network would be drawn back to the mistakes of the worse.
    """
    dims = tuple(range(1, answer.ndim))
    with torch.no_grad():
        error, other_error = (((guess - target) ** 2).sum(dim=dims, keepdim=True) for guess in (answer, other))
    return F.mse_loss(torch.where(error > other_error, answer, answer.detach()), other)

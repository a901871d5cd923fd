"""Position: the error of the nine points."""

from __future__ import annotations

import torch

from nnunet_topomae.losses.term import BranchTerm, Target
from nnunet_topomae.networks.copretrain import BranchOutput


def position_loss(points: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over points and axes of (p̂ − p)².

    Args:
        points, target: [..., 9, 3], coordinates in which the whole volume spans [0, 1] (`pretext/position.py`); axes
            that a target lacks are broadcast.
    """
    return ((points - target) ** 2).mean()


class Position(BranchTerm):
    """`position_loss` over all views."""

    name = "position"

    def of_branch(self, branch: str, output: BranchOutput, target: Target) -> torch.Tensor:
        return position_loss(output.points, target.points[:, None])


def point_distance(points: torch.Tensor, target: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Mean Euclidean distance of the nine points of each crop, [B].

    Args:
        points, target: [B, 9, 3] in coordinates of the volume.
        unit: [B, 3], extent of the volume per axis in the unit wanted: voxels, or mm.
    """
    return ((points - target) * unit[:, None]).norm(dim=2).mean(dim=1)

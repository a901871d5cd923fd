"""Position: the error of the nine points."""

from __future__ import annotations

import torch

from nnunet_topomae.losses.term import BranchTerm, Target
from nnunet_topomae.networks.copretrain import BranchOutput


def position_loss(points: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over points and axes of (p̂ − p)².

    Args:
        points, target: [..., 9, 3], from the centre of the volume (`from_centre` of `pretext/position.py`); axes that a
            target lacks are broadcast.
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
        points, target: [B, 9, 3], in any coordinates.
        unit: [B, 3] or [3], how long 1 is on each axis, in the unit wanted: voxels, or mm.
    """
    return ((points - target) * unit[..., None, :]).norm(dim=2).mean(dim=1)

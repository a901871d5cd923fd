"""Topology: the distance of persistence diagrams. The distance itself is `nnunet_topomae.topology`'s."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.term import BranchTerm, Outputs, Target
from nnunet_topomae.networks.copretrain import BranchOutput
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.topology import TopologicalLoss
from nnunet_topomae.topology.loss import Normalisation


def topological_loss(
    config: TopoMAEConfig, normalisation: Normalisation, scale: int | Sequence[int] = 1, place: float = 0.0
) -> TopologicalLoss:
    """The topological loss with the knobs that both phases have; the paper's, if nothing else is asked for."""
    return TopologicalLoss(
        dimensions=config.topology_dimensions,
        rel_tol=config.topology_tolerance,
        max_side=config.topology_max_side or None,
        normalisation=normalisation,
        scale=scale,
        place=place,
    )


def pretraining_topology(config: TopoMAEConfig, geometry: Geometry) -> TopologicalLoss:
    """Of pre-training, with its scale and place."""
    scale = scale_of_tokens(geometry, config.topology_scale)
    return topological_loss(config, "voxels", scale, config.topology_place)


def scale_of_tokens(geometry: Geometry, points: int) -> list[int]:
    """Voxels an axis, so that a token, which is what is hidden, is as wide as so many points; 0 points: 1 voxel."""
    return [max(1, side // points) if points else 1 for side in geometry.token_size]


class Topology(BranchTerm):
    """The topological loss of the first view, as a volume that is completed by the image where that was visible.

    A masked autoencoder is not asked for the visible voxels, and what it leaves there has no shape to compare.
    """

    name = "topology"

    def __init__(self, config: TopoMAEConfig, geometry: Geometry) -> None:
        super().__init__(config, geometry)
        self.loss = pretraining_topology(config, geometry)

    def __call__(self, branch: str, outputs: Outputs, target: Target) -> dict[str, torch.Tensor]:
        return {} if target.diagrams is None else super().__call__(branch, outputs, target)

    def of_branch(self, branch: str, output: BranchOutput, target: Target) -> torch.Tensor:
        return target.pending[branch].result().loss

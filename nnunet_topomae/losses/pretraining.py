"""The loss of pre-training: a weighted sum of terms."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from functools import reduce

import torch
from torch import nn

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.consistency import PointConsistency, ReconstructionConsistency
from nnunet_topomae.losses.position import Position
from nnunet_topomae.losses.reconstruction import Reconstruction
from nnunet_topomae.losses.term import Outputs, Target, Term
from nnunet_topomae.losses.topology import Topology
from nnunet_topomae.networks.copretrain import BranchOutput
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.tokens import expand_mask
from nnunet_topomae.topology import Diagrams

# Computed in this order. Topology comes last: it is awaited, and the rest is computed meanwhile.
TERMS: tuple[type[Term], ...] = (Reconstruction, Position, PointConsistency, ReconstructionConsistency, Topology)
CURVES = tuple(curve for term in TERMS for curve in term.curves)


class PretrainingLoss(nn.Module):
    """Every term of `TERMS` by the names of its curves, unweighted, and their weighted sum."""

    def __init__(self, config: TopoMAEConfig, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.terms = [term(config, geometry) for term in TERMS]
        (self.topology,) = (term for term in self.terms if isinstance(term, Topology))

    def submit_target(self, image: torch.Tensor) -> list[Future[Diagrams]] | None:
        """Start on the diagrams of [B, C, D, H, W] images; None where topology has no weight."""
        return self.topology.loss.submit_diagrams(image) if self.topology.weight else None

    def target(
        self,
        image: torch.Tensor,
        points: torch.Tensor,
        masks: torch.Tensor,
        diagrams: list[Future[Diagrams]] | None = None,
    ) -> Target:
        """What images [B, C, D, H, W] at `points` [B, 9, 3] (`Target`) under `masks` [B, V, N] ask of the networks."""
        hidden = expand_mask(masks, self.geometry.token_grid, self.geometry.token_size)
        return Target(image, points, hidden, diagrams)

    def forward(self, outputs: Outputs, target: Target) -> dict[str, torch.Tensor]:
        """The terms of one network or both, scalars by the names of `CURVES`; topology where there are diagrams."""
        outputs = {name: BranchOutput(*(answer.float() for answer in output)) for name, output in outputs.items()}
        values: dict[str, torch.Tensor] = {}
        for term in self.terms:
            values |= term(outputs, target)
        return values

    def total(self, values: Mapping[str, torch.Tensor], topology_every: int = 1) -> torch.Tensor:
        """Σ weight · term. Where topology is there in one of `topology_every` steps, it counts that many times."""
        weighted = (
            term.weight * (topology_every if term is self.topology else 1) * values[curve]
            for term in self.terms
            for curve in term.curves
            if curve in values
        )
        return reduce(torch.add, weighted)

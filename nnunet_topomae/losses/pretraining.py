"""The loss of pre-training: a weighted sum of terms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import nn

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.consistency import PointConsistency, ReconstructionConsistency
from nnunet_topomae.losses.position import Position
from nnunet_topomae.losses.reconstruction import Reconstruction
from nnunet_topomae.losses.term import Outputs, Target, Term
from nnunet_topomae.losses.topology import Topology
from nnunet_topomae.networks.copretrain import BranchOutput, token_ids
from nnunet_topomae.networks.geometry import Geometry

# Computed in this order. Topology comes last: it is awaited, and the rest is computed meanwhile.
TERMS: tuple[type[Term], ...] = (Reconstruction, Position, PointConsistency, ReconstructionConsistency, Topology)
CURVES = tuple(curve for term in TERMS for curve in term.curves)


class PretrainingLoss(nn.Module):
    """Every term of `TERMS` that has a weight, by the names of its curves, unweighted, and their weighted sum.

    Reconstruction is computed in any case: a step in which no other term can be still has a loss.

    Attributes:
        weights: of the terms by name.
    """

    def __init__(self, config: TopoMAEConfig, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.terms = [term(config, geometry) for term in TERMS]
        self.weights = {term.name: term.weight for term in self.terms}
        (self.topology,) = (term for term in self.terms if isinstance(term, Topology))

    def target(
        self, image: torch.Tensor, points: torch.Tensor, masks: torch.Tensor, with_topology: bool = True
    ) -> Target:
        """What images [B, C, D, H, W] at `points` [B, 9, 3] (`Target`) under `masks` [B, V, N] ask of the networks.

        Their diagrams are begun, unless topology is left out or has no weight.
        """
        _, hidden = token_ids(masks, image.device)
        with_topology = with_topology and self.weights["topology"] > 0
        diagrams = self.topology.loss.submit_diagrams(image) if with_topology else None
        return Target(image, points, masks, hidden, self.geometry, diagrams)

    def answered(self, branch: str, output: BranchOutput, target: Target) -> BranchOutput:
        """What a network says, in float32, on whose topology the threads of the engine are set to work."""
        output = BranchOutput(*(part.float() for part in output))
        if target.diagrams is not None:
            target.pending[branch] = self.topology.loss.submit(target.completed(output), None, target.diagrams)
        return output

    def forward(self, branch: str, outputs: Outputs, target: Target) -> dict[str, torch.Tensor]:
        """The terms that a network learns from, scalars by the names of `CURVES`: its own and those of both.

        `outputs` are as `answered` returns them, of one network or both. Waits for the topology of `branch`, last.
        """
        values: dict[str, torch.Tensor] = {}
        for term in self.terms:
            if term.weight or isinstance(term, Reconstruction):
                values |= term(branch, outputs, target)
        return values

    def total(self, values: Mapping[str, torch.Tensor], topology_every: float = 1) -> torch.Tensor:
        """Σ weight · term. Where topology is there in one of `topology_every` steps, it counts that many times."""
        weighted = (
            term.weight * (topology_every if term is self.topology else 1) * values[curve]
            for term in self.terms
            for curve in term.curves
            if curve in values
        )
        return reduce(torch.add, weighted)

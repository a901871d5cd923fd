"""The loss of pre-training: reconstruction + topology + position + consistency, over both networks."""

from __future__ import annotations

from concurrent.futures import Future

import torch
from torch import nn

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.consistency import point_consistency, reconstruction_consistency
from nnunet_topomae.losses.position import position_loss
from nnunet_topomae.losses.reconstruction import reconstruction_loss, token_statistics
from nnunet_topomae.networks.copretrain import CoPretrainingOutput
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.tokens import expand_mask
from nnunet_topomae.topology import Diagrams, TopologicalLoss

BRANCHES = CoPretrainingOutput._fields
TERMS = (
    *(f"{term}_{branch}" for term in ("reconstruction", "topology", "position") for branch in BRANCHES),
    "consistency_points",
    "consistency_reconstruction",
)


class PretrainingLoss(nn.Module):
    """Each term by name, unweighted, and their weighted sum.

    The topological loss looks at *completed* volumes: the image where it is visible, the reconstruction where it was
    masked. A masked autoencoder is not asked for the visible voxels, and what it leaves there has no shape to compare.
    """

    def __init__(self, config: TopoMAEConfig, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.normalise_targets = config.normalise_targets
        self.weights = {
            "reconstruction": config.weight_reconstruction,
            "topology": config.weight_topology,
            "position": config.weight_position,
            "consistency_points": config.weight_consistency_points,
            "consistency_reconstruction": config.weight_consistency_reconstruction,
        }
        self.topology = topological_loss(config, config.topology_normalisation)

    def submit_target(self, image: torch.Tensor) -> list[Future[Diagrams]] | None:
        """Start on the diagrams of [B, C, D, H, W] images while the networks run; None where topology has no weight."""
        return self.topology.submit_diagrams(image) if self.weights["topology"] else None

    def forward(
        self,
        output: CoPretrainingOutput,
        image: torch.Tensor,
        points: torch.Tensor,
        mask: torch.Tensor,
        target_diagrams: list[Future[Diagrams]] | None,
    ) -> dict[str, torch.Tensor]:
        """Terms of `TERMS`, each a scalar.

        Args:
            output: of both networks.
            image: [B, C, D, H, W], what was to be reconstructed.
            points: [B, 9, 3], where the crops lie.
            mask: [B, N] bool, True where a token was hidden.
            target_diagrams: from `submit_target(image)`; without them the topological terms are left out.
        """
        voxel_mask = self.voxel_mask(mask)
        volumes = self.reconstructed_intensities(output, image)
        token_std = token_statistics(image, self.geometry.token_size)[1] if self.normalise_targets else None
        pending = {}
        if target_diagrams is not None:
            for name, completed in completed_volumes(volumes, image, voxel_mask).items():
                pending[name] = self.topology.submit(completed, None, target_diagrams)
        terms = {}
        for name, branch in zip(BRANCHES, output, strict=True):
            terms[f"reconstruction_{name}"] = reconstruction_loss(volumes[name], image, voxel_mask, token_std)
            terms[f"position_{name}"] = position_loss(branch.points.float(), points)
        for name, topology in pending.items():
            terms[f"topology_{name}"] = topology.result().loss
        terms["consistency_points"] = point_consistency(*(branch.points.float() for branch in output))
        terms["consistency_reconstruction"] = reconstruction_consistency(*volumes.values(), voxel_mask)
        return terms

    def voxel_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """[B, N] tokens to [B, 1, D, H, W] voxels."""
        return expand_mask(mask, self.geometry.token_grid, self.geometry.token_size)

    def reconstructed_intensities(self, output: CoPretrainingOutput, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each network's reconstruction [B, C, D, H, W] in intensities, float32: un-normalised where that is due."""
        volumes = {name: branch.reconstruction.float() for name, branch in zip(BRANCHES, output, strict=True)}
        if not self.normalise_targets:
            return volumes
        mean, std = token_statistics(image, self.geometry.token_size)
        return {name: volume * std + mean for name, volume in volumes.items()}

    def total(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """Σ weight · term."""
        return sum(self._weight(name) * value for name, value in terms.items())

    def _weight(self, term: str) -> float:
        return self.weights[term if term in self.weights else term.rsplit("_", 1)[0]]


def completed_volumes(
    volumes: dict[str, torch.Tensor], image: torch.Tensor, voxel_mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The image where it was visible, each network's reconstructed intensities where it was masked."""
    return {name: torch.where(voxel_mask, volume, image) for name, volume in volumes.items()}


def topological_loss(config: TopoMAEConfig, normalisation: str) -> TopologicalLoss:
    """The topological loss with the knobs of `config`."""
    return TopologicalLoss(
        dimensions=config.topology_dimensions,
        rel_tol=config.topology_tolerance,
        max_side=None if config.topology_windows else config.topology_max_side or None,
        window=config.topology_windows or None,
        min_persistence=config.topology_min_persistence,
        normalisation=normalisation,
        backend=config.topology_backend,
    )

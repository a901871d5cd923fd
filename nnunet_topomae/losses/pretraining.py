"""The loss of pre-training: reconstruction + topology + position + consistency, over both networks."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from functools import reduce

import torch
from torch import nn

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.consistency import point_consistency, reconstruction_consistency
from nnunet_topomae.losses.position import position_loss
from nnunet_topomae.losses.reconstruction import reconstruction_loss, token_statistics
from nnunet_topomae.networks.copretrain import BranchOutput, CoPretrainingOutput
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.tokens import expand_mask
from nnunet_topomae.topology import Diagrams, PendingLoss, TopologicalLoss
from nnunet_topomae.topology.loss import Normalisation

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
        masks: torch.Tensor,
        target_diagrams: list[Future[Diagrams]] | None,
        pending: Mapping[str, PendingLoss] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Terms of `TERMS`, each a scalar. Reconstruction and position are means over all views of a network; topology
        and consistency look at the first, which both networks share. What topology is awaited comes last: the rest is
        computed meanwhile.

        Args:
            output: of both networks.
            image: [B, C, D, H, W], what was to be reconstructed.
            points: [B, 9, 3], where the crops lie.
            masks: [B, V, N] bool, True where a token was hidden.
            target_diagrams: from `submit_target(image)`; without them the topological terms are left out.
            pending: what `submit_topology` has begun already, by network.
        """
        voxel_masks = self.voxel_masks(masks)
        volumes = self.reconstructed_intensities(output, image)
        pending = dict(pending or {})
        if target_diagrams is not None:
            for name, branch in zip(BRANCHES, output, strict=True):
                if name not in pending:
                    pending[name] = self.submit_topology(name, branch, image, masks, target_diagrams)
        terms = self._pretext_tasks(output._asdict(), volumes, image, points, voxel_masks)
        a, b = (branch.points[:, 0].float() for branch in output)
        terms["consistency_points"] = point_consistency(a, b, points)
        a, b = (volume[:, 0] for volume in volumes.values())
        terms["consistency_reconstruction"] = reconstruction_consistency(a, b, image, voxel_masks[:, 0])
        for name, topology in pending.items():
            terms[f"topology_{name}"] = topology.result().loss
        return terms

    def of_vit(
        self, output: BranchOutput, image: torch.Tensor, points: torch.Tensor, masks: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The terms that need neither the other network nor a diagram, of the ViT alone. Shapes as in `forward`."""
        volumes = {"vit": self.in_intensities(output.reconstruction, image)}
        return self._pretext_tasks({"vit": output}, volumes, image, points, self.voxel_masks(masks))

    def _pretext_tasks(
        self,
        output: Mapping[str, BranchOutput],
        volumes: Mapping[str, torch.Tensor],
        image: torch.Tensor,
        points: torch.Tensor,
        voxel_masks: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Reconstruction and position of each network in `output`, whose `volumes` are in intensities."""
        token_std = token_statistics(image, self.geometry.token_size)[1][:, None] if self.normalise_targets else None
        terms = {}
        for name, branch in output.items():
            hidden = voxel_masks[:, : volumes[name].shape[1]]
            terms[f"reconstruction_{name}"] = reconstruction_loss(volumes[name], image[:, None], hidden, token_std)
            terms[f"position_{name}"] = position_loss(branch.points.float(), points[:, None])
        return terms

    def submit_topology(
        self,
        name: str,
        branch: BranchOutput,
        image: torch.Tensor,
        masks: torch.Tensor,
        target_diagrams: list[Future[Diagrams]],
    ) -> PendingLoss:
        """Start on the topological loss of one network, `target_diagrams` being those of `submit_target(image)`."""
        volume = self.in_intensities(branch.reconstruction[:, :1], image)[:, 0]
        completed = completed_volumes({name: volume}, image, self.voxel_masks(masks[:, :1])[:, 0])[name]
        return self.topology.submit(completed, None, target_diagrams)

    def voxel_masks(self, masks: torch.Tensor) -> torch.Tensor:
        """[B, V, N] tokens to [B, V, 1, D, H, W] voxels."""
        voxels = expand_mask(masks.flatten(0, 1), self.geometry.token_grid, self.geometry.token_size)
        return voxels.unflatten(0, masks.shape[:2])

    def reconstructed_intensities(self, output: CoPretrainingOutput, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each network's reconstruction [B, V, C, D, H, W] in intensities, float32: un-normalised where that is due."""
        return {
            name: self.in_intensities(branch.reconstruction, image)
            for name, branch in zip(BRANCHES, output, strict=True)
        }

    def in_intensities(self, reconstruction: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """One of them."""
        if not self.normalise_targets:
            return reconstruction.float()
        mean, std = (value[:, None] for value in token_statistics(image, self.geometry.token_size))
        return reconstruction.float() * std + mean

    def total(self, terms: dict[str, torch.Tensor], topology_every: int = 1) -> torch.Tensor:
        """Σ weight · term. Where topology is there in one of `topology_every` steps, it counts that many times."""
        weighted = (
            self._weight(name) * (topology_every if name.startswith("topology") else 1) * value
            for name, value in terms.items()
        )
        return reduce(torch.add, weighted)

    def _weight(self, term: str) -> float:
        return self.weights[term if term in self.weights else term.rsplit("_", 1)[0]]


def completed_volumes(
    volumes: dict[str, torch.Tensor], image: torch.Tensor, voxel_mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The image where it was visible, each network's reconstructed intensities where it was masked."""
    return {name: torch.where(voxel_mask, volume, image) for name, volume in volumes.items()}


def topological_loss(config: TopoMAEConfig, normalisation: Normalisation) -> TopologicalLoss:
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

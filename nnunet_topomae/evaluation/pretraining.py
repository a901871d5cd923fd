"""How well a co-pretrained pair of networks reconstructs and places crops of cases it was not trained on."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nnunet_topomae.data.dataloading import CropPositionDataLoader
from nnunet_topomae.losses.position import point_distance
from nnunet_topomae.losses.pretraining import BRANCHES, PretrainingLoss, completed_volumes
from nnunet_topomae.losses.reconstruction import masked_mean
from nnunet_topomae.pretext.masking import draw_masks
from nnunet_topomae.topology import TopologicalLoss
from nnunet_topomae.visualization.reconstruction import save_reconstruction_figure

MAX_PICTURES = 8


def psnr(reconstruction: torch.Tensor, target: torch.Tensor, voxel_mask: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB on masked voxels; the peak is the range of the target.

    NaN for a constant target, which has no peak.
    """
    if target.min() == target.max():
        return math.nan
    error = masked_mean((reconstruction - target) ** 2, voxel_mask)
    return (20 * torch.log10(target.max() - target.min()) - 10 * torch.log10(error)).item()


@dataclass(frozen=True)
class PretrainingEvaluation:
    """Reconstructs random crops of cases under random masks, the same ones whenever it is run.

    Args:
        network: CoPretrainingNetwork in evaluation mode, on `device`.
        loss: holds the geometry and un-normalises reconstructions.
        topology: without normalisation, for the topological distance.
        loader: draws crops with their points.
        mask_ratio: part of the tokens hidden.
        crops_per_case: the figures of a case are means over these.
        spacing: mm per voxel and axis of the preprocessed volumes.
        device: of the network.
    """

    network: nn.Module
    loss: PretrainingLoss
    topology: TopologicalLoss
    loader: CropPositionDataLoader
    mask_ratio: float
    crops_per_case: int
    spacing: Sequence[float]
    device: torch.device

    @torch.no_grad()
    def case(self, key: str, picture: Path | None = None) -> dict:
        """Metrics of one case, by network; the first crop is drawn to `picture`.

        `masked_mse` is in squared z-scored intensities, `psnr` in dB, `topological_distance` is (Σ_k W2(D_k, D̂_k)²)^½
        of the completed crop in z-scored intensities, the point errors are mean distances of the nine points.
        """
        seed = zlib.crc32(key.encode())
        np.random.seed(seed)  # nnU-Net's loader draws from NumPy's global generator
        generator = torch.Generator().manual_seed(seed)
        crops = [self._crop(key, generator, picture if index == 0 else None) for index in range(self.crops_per_case)]
        means = {
            branch: {name: _mean([crop[branch][name] for crop in crops]) for name in crops[0][branch]}
            for branch in BRANCHES
        }
        return {"case": key, "crops": self.crops_per_case, "metrics": means}

    def _crop(self, key: str, generator: torch.Generator, picture: Path | None) -> dict[str, dict[str, float]]:
        sample = self.loader.draw_sample(key)
        image = sample["data"][None].to(self.device)
        points = sample["points"][None].to(self.device)
        shape = sample["volume_shape"][None].to(self.device)
        masks = draw_masks(1, 1, self.loss.geometry.num_tokens, self.mask_ratio, generator).to(self.device)
        output = self.network(image, masks)
        voxel_mask = self.loss.voxel_masks(masks)[:, 0]
        volumes = self.loss.reconstructed_intensities(output, image)
        completed = completed_volumes({name: volume[:, 0] for name, volume in volumes.items()}, image, voxel_mask)
        target_diagrams = self.topology.diagrams(image)
        if picture is not None:
            self._draw(picture, key, image, voxel_mask, completed)
        return {
            name: {
                "masked_mse": masked_mean((completed[name] - image) ** 2, voxel_mask).item(),
                "psnr": psnr(completed[name], image, voxel_mask),
                "topological_distance": (2 * self.topology(completed[name], image, target_diagrams)).sqrt().item(),
                "point_error_voxels": point_distance(branch.points[:, 0].float(), points, shape).item(),
                "point_error_mm": point_distance(branch.points[:, 0].float(), points, shape * self._mm(shape)).item(),
            }
            for name, branch in zip(BRANCHES, output, strict=True)
        }

    def _mm(self, like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.spacing, dtype=torch.float32, device=like.device)

    def _draw(self, path: Path, key: str, image: torch.Tensor, voxel_mask: torch.Tensor, completed: dict) -> None:
        save_reconstruction_figure(
            path,
            image[0, 0].cpu().numpy(),
            voxel_mask[0, 0].cpu().numpy(),
            {name: volume[0, 0].cpu().numpy() for name, volume in completed.items()},
            title=key,
            spacing=tuple(self.spacing),
        )


def mean_over_cases(cases: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Mean of each network's metrics over the results of `PretrainingEvaluation.case`."""
    return {
        branch: {name: _mean([case["metrics"][branch][name] for case in cases]) for name in cases[0]["metrics"][branch]}
        for branch in BRANCHES
    }


def _mean(values: Sequence[float]) -> float:
    """Mean of those that are defined; NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan

"""How well a co-pretrained pair of networks reconstructs and places crops of cases it was not trained on."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nnunet_topomae.data.dataloading import CropDataLoader, collate_crops
from nnunet_topomae.losses.position import point_distance
from nnunet_topomae.losses.reconstruction import masked_mean
from nnunet_topomae.losses.term import BRANCHES
from nnunet_topomae.monitoring.shape import BettiNumbersOfLevels
from nnunet_topomae.networks.copretrain import CoPretrainingNetwork
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.tokens import expand_mask
from nnunet_topomae.pretext.masking import draw_masks
from nnunet_topomae.pretext.position import in_volume
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


class ReconstructedCrop(NamedTuple):
    """A crop and what the networks made of it, on the networks' device.

    Attributes:
        image: [1, C, D, H, W].
        voxel_mask: [1, 1, D, H, W] bool, True where the networks saw nothing.
        completed: [1, C, D, H, W] by network, the image where it was visible, the reconstruction where it was masked.
        points: [1, 9, 3], where the crop lies in its volume (`pretext/position.py`).
        predicted_points: [1, 9, 3] by network, in coordinates of the volume as well.
        volume_shape: [1, 3], voxels of the volume.
    """

    image: torch.Tensor
    voxel_mask: torch.Tensor
    completed: dict[str, torch.Tensor]
    points: torch.Tensor
    predicted_points: dict[str, torch.Tensor]
    volume_shape: torch.Tensor


@dataclass(frozen=True)
class PretrainingEvaluation:
    """Reconstructs random crops of cases under random masks, the same ones whenever it is run.

    Args:
        network: in evaluation mode, on `device`.
        geometry: of the network.
        topology: without normalisation, for the topological distance.
        loader: draws crops.
        mask_ratio: part of the tokens hidden.
        crops_per_case: the figures of a case are means over these.
        spacing: mm per voxel and axis of the preprocessed volumes.
        device: of the network.
        with_points: whether the network was asked for the nine points.
    """

    network: CoPretrainingNetwork
    geometry: Geometry
    topology: TopologicalLoss
    loader: CropDataLoader
    mask_ratio: float
    crops_per_case: int
    spacing: Sequence[float]
    device: torch.device
    with_points: bool

    @torch.no_grad()
    def case(self, key: str) -> tuple[dict[str, Any], ReconstructedCrop]:
        """Metrics of one case, by network, and its first crop.

        `masked_mse` is in squared z-scored intensities, `psnr` in dB, `topological_distance` is (Σ_k W2(D_k, D̂_k)²)^½
        of the completed crop in z-scored intensities, `betti_error` that of `monitoring/shape.py`, the point errors are
        mean distances of the nine points.
        """
        generator = self.seed(key)
        first = self.reconstruct(key, generator)
        metrics = [self._metrics(first)]
        metrics += [self._metrics(self.reconstruct(key, generator)) for _ in range(1, self.crops_per_case)]
        means = {
            branch: {name: _mean([of_crop[branch][name] for of_crop in metrics]) for name in metrics[0][branch]}
            for branch in BRANCHES
        }
        return {"case": key, "crops": self.crops_per_case, "metrics": means}, first

    def seed(self, key: str) -> torch.Generator:
        """Makes the next crops of a case the same ones as ever; the generator is for their masks."""
        seed = zlib.crc32(key.encode())
        np.random.seed(seed)  # nnU-Net's loader draws from NumPy's global generator
        return torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def reconstruct(self, key: str, generator: torch.Generator) -> ReconstructedCrop:
        """The next crop of a case under the next mask."""
        crop = collate_crops([self.loader.draw_crop(key)], self.geometry.patch_size)
        image, points, shape = (crop[name].to(self.device) for name in ("data", "points", "volume_shape"))
        masks = draw_masks(1, 1, self.geometry.num_tokens, self.mask_ratio, generator).to(self.device)
        branches = self.network(image, masks)._asdict().items()
        return ReconstructedCrop(
            image,
            expand_mask(masks[:, 0], self.geometry.token_grid, self.geometry.token_size),
            {name: branch.reconstruction[:, 0].float() for name, branch in branches},
            points,
            {name: in_volume(branch.points[:, 0].float(), shape, self._mm(shape)) for name, branch in branches},
            shape,
        )

    def draw(self, path: Path, title: str, crop: ReconstructedCrop) -> None:
        """The crop's first channel, to the picture `path`."""
        save_reconstruction_figure(
            path,
            crop.image[0, 0].cpu().numpy(),
            crop.voxel_mask[0, 0].cpu().numpy(),
            {name: volume[0, 0].cpu().numpy() for name, volume in crop.completed.items()},
            title=title,
            spacing=tuple(self.spacing),
        )

    def _metrics(self, crop: ReconstructedCrop) -> dict[str, dict[str, float]]:
        target_diagrams = self.topology.diagrams(crop.image)
        betti = BettiNumbersOfLevels(crop.image, self.geometry)
        return {
            name: {
                "masked_mse": masked_mean((completed - crop.image) ** 2, crop.voxel_mask).item(),
                "psnr": psnr(completed, crop.image, crop.voxel_mask),
                "topological_distance": (2 * self.topology(completed, crop.image, target_diagrams)).sqrt().item(),
                "betti_error": betti.error(completed),
                **(self._point_errors(crop, name) if self.with_points else {}),
            }
            for name, completed in crop.completed.items()
        }

    def _point_errors(self, crop: ReconstructedCrop, name: str) -> dict[str, float]:
        units = {"voxels": crop.volume_shape, "mm": crop.volume_shape * self._mm(crop.volume_shape)}
        points = crop.predicted_points[name], crop.points
        return {f"point_error_{unit}": point_distance(*points, size).item() for unit, size in units.items()}

    def _mm(self, like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.spacing, dtype=torch.float32, device=like.device)


def mean_over_cases(cases: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean of each network's metrics over the results of `PretrainingEvaluation.case`."""
    return {
        branch: {name: _mean([case["metrics"][branch][name] for case in cases]) for name in cases[0]["metrics"][branch]}
        for branch in BRANCHES
    }


def _mean(values: Sequence[float]) -> float:
    """Mean of those that are defined; NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan

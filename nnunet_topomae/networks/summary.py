"""Parameters, multiply-adds and estimated memory of both phases, without weights, data or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from nnunet_topomae.networks.copretrain import CoPretrainingNetwork
from nnunet_topomae.networks.dry_run import Network, dry_run
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.hybrid import HybridSegmentationNetwork
from nnunet_topomae.networks.plan_network import PlanArchitecture
from nnunet_topomae.networks.presets import Preset

BYTES_PER_PARAMETER = 16  # float32: weight, gradient, AdamW's two moments


@dataclass(frozen=True)
class NetworkSummary:
    """Cost of one network.

    Attributes:
        parameters: number of them.
        multiply_adds: of matrix products and convolutions in one forward pass of one sample.
        fixed_bytes: weights, gradients, optimiser, and what autocast copies, whatever the batch size.
        bytes_per_sample: tensors that the forward pass of one sample keeps for the backward pass. Neither the loss nor
            the workspace of convolutions is in it.
    """

    parameters: int
    multiply_adds: int
    fixed_bytes: int
    bytes_per_sample: int

    def training_bytes(self, batch_size: int) -> int:
        """Estimated memory of a training step."""
        return self.fixed_bytes + batch_size * self.bytes_per_sample

    def largest_batch(self, memory_bytes: int) -> int:
        """The largest batch whose estimate stays within `memory_bytes`; 0 if none does."""
        return max(0, (memory_bytes - self.fixed_bytes) // self.bytes_per_sample)


def summarise_pretraining(
    input_channels: int,
    geometry: Geometry,
    preset: Preset,
    mask_ratio: float = 0.75,
    vit_views: int | None = None,
    dtype: torch.dtype = torch.float16,
    architecture: PlanArchitecture | None = None,
) -> NetworkSummary:
    """Both networks of pre-training in `dtype`, the ViT under `vit_views` masks a crop (or the preset's)."""
    num_visible = geometry.num_tokens - round(mask_ratio * geometry.num_tokens)
    views = preset.vit_views if vit_views is None else vit_views

    def forward(network: CoPretrainingNetwork, image: torch.Tensor) -> None:
        network.vit(image, torch.arange(num_visible).expand(len(image), views, -1))
        network.partner(image)

    def build() -> CoPretrainingNetwork:
        return CoPretrainingNetwork(input_channels, geometry, _fused(preset), architecture=architecture)

    return _summarise(build, forward, input_channels, geometry, dtype)


def summarise_finetuning(
    input_channels: int,
    num_classes: int,
    geometry: Geometry,
    preset: Preset,
    fusion: str = "stages",
    dtype: torch.dtype = torch.float16,
    architecture: PlanArchitecture | None = None,
) -> NetworkSummary:
    """The hybrid network with deep supervision, under autocast to `dtype`."""

    def build() -> HybridSegmentationNetwork:
        return HybridSegmentationNetwork(
            input_channels, num_classes, geometry, _fused(preset), fusion=fusion, architecture=architecture
        )

    return _summarise(build, lambda network, image: network(image), input_channels, geometry, dtype)


def _fused(preset: Preset) -> Preset:
    """Without dropout, with which attention on the CPU, where this runs, stores matrices that a GPU does not."""
    return replace(preset, dropout=0.0)


def _summarise(
    build: Callable[[], Network],
    forward: Callable[[Network, torch.Tensor], object],
    input_channels: int,
    geometry: Geometry,
    dtype: torch.dtype,
) -> NetworkSummary:
    run = dry_run(build, forward, (input_channels, *geometry.patch_size), dtype)
    parameters = sum(p.numel() for p in run.network.parameters())
    return NetworkSummary(
        parameters=parameters,
        multiply_adds=run.multiply_adds,
        fixed_bytes=BYTES_PER_PARAMETER * parameters + run.bytes_per_batch,
        bytes_per_sample=run.bytes_per_sample,
    )

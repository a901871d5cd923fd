"""Parameters, multiply-adds and estimated memory of both phases, without weights, data or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from nnunet_topomae.networks.copretrain import CoPretrainingNetwork
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.hybrid import HybridSegmentationNetwork
from nnunet_topomae.networks.partners import Partner
from nnunet_topomae.networks.presets import ViTConfig

BYTES_PER_PARAMETER = 16  # float32: weight, gradient, AdamW's two moments
SAMPLES = 2  # of one, some tensors are views of others that are copies of several

Network = TypeVar("Network", bound=nn.Module)


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
    vit: ViTConfig,
    partner: Partner,
    mask_ratio: float = 0.75,
    dtype: torch.dtype = torch.float16,
) -> NetworkSummary:
    """Both networks of pre-training under autocast to `dtype`."""
    num_visible = geometry.num_tokens - round(mask_ratio * geometry.num_tokens)

    def forward(network: CoPretrainingNetwork, image: torch.Tensor) -> None:
        ids = torch.arange(geometry.num_tokens).expand(len(image), vit.views, -1)
        network.vit(image, ids[..., :num_visible], ids[..., num_visible:])
        network.partner(image)

    def build() -> CoPretrainingNetwork:
        return CoPretrainingNetwork(input_channels, geometry, vit, partner)

    return summarise(build, forward, (input_channels, *geometry.patch_size), dtype)


def summarise_finetuning(
    input_channels: int,
    num_classes: int,
    geometry: Geometry,
    vit: ViTConfig,
    partner: Partner,
    fusion: str = "stages",
    dtype: torch.dtype = torch.float16,
) -> NetworkSummary:
    """The hybrid network with deep supervision, under autocast to `dtype`."""

    def build() -> HybridSegmentationNetwork:
        return HybridSegmentationNetwork(input_channels, num_classes, geometry, vit, partner, fusion=fusion)

    return summarise(build, lambda network, image: network(image), (input_channels, *geometry.patch_size), dtype)


def summarise(
    build: Callable[[], Network],
    forward: Callable[[Network, torch.Tensor], object],
    sample_shape: tuple[int, ...],
    dtype: torch.dtype,
) -> NetworkSummary:
    """A forward pass of tensors without values, on the CPU: `forward` of the network that `build` makes and images.

    The network is in evaluation mode, as attention with dropout stores matrices on a CPU that it does not on a GPU.
    """
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with FakeTensorMode():
        network = build().eval()
        image = torch.empty(SAMPLES, *sample_shape)
        with (
            FlopCounterMode(display=False) as counter,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
        ):
            forward(network, image)
    for tensor in (*network.parameters(), *network.buffers()):
        kept.pop(tensor.untyped_storage()._cdata, None)
    parameters = list(network.parameters())
    number = sum(parameter.numel() for parameter in parameters)
    kernels = sum(parameter.numel() for parameter in parameters if parameter.ndim > 1)
    copies = 0 if dtype == torch.float32 else dtype.itemsize * kernels  # autocast keeps one of each kernel and matrix
    return NetworkSummary(
        parameters=number,
        multiply_adds=counter.get_total_flops() // 2 // SAMPLES,
        fixed_bytes=BYTES_PER_PARAMETER * number + copies,
        bytes_per_sample=(sum(storage.nbytes() for storage in kept.values()) - copies) // SAMPLES,
    )

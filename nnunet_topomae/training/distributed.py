"""What nnU-Net's trainers need to run on any number of machines, and on CPUs.

nnU-Net trains on the GPUs of one machine. There a process's rank is also the index of its GPU, and its trainers use one
number, `local_rank`, for both. Here that number stays the rank among all processes, by which a trainer decides who
writes and which cases are whose; the device is given apart from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import batch_norm
from torch.nn.parallel import DistributedDataParallel

from nnunet_topomae.private_names import wrap_networks_in

PATIENCE = timedelta(minutes=30)  # rank 0 reads all images while the others wait


@contextmanager
def others_wait() -> Iterator[None]:
    """What rank 0 does within is done when any process leaves. Under nnU-Net's -num_gpus NCCL's patience is 10 min."""
    group: Any = dist.new_group(timeout=PATIENCE)
    dist.barrier(group)  # they meet, for which the patience is the old one
    yield
    dist.barrier(group)
    dist.destroy_process_group(group)


def place(trainer: nnUNetTrainer, device: torch.device) -> None:
    """Puts a trainer that has not been initialised on `device`, instead of the GPU whose index is its rank."""
    trainer.device = device
    if device.type != "cuda":
        trainer.grad_scaler = None
    wrap_networks_in(PlacedNetwork)


class PlacedNetwork(DistributedDataParallel):
    """A network on the device of its parameters, whatever its rank. nnU-Net gives the rank for the device's index."""

    def __init__(self, network: nn.Module, device_ids: list[int] | None = None) -> None:
        on_cpu = next(network.parameters()).device.type == "cpu"
        super().__init__(with_batch_norm_on_cpu(network) if on_cpu else network)


def with_batch_norm_on_cpu(network: nn.Module) -> nn.Module:
    """`network` with each SyncBatchNorm, which PyTorch has for accelerators alone, replaced; parameters are kept."""
    for name, child in network.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            norm = SyncBatchNormOnCPU(child.num_features, child.eps, child.momentum)
            norm.weight, norm.bias = child.weight, child.bias
            norm.load_state_dict(child.state_dict())
            setattr(network, name, norm)
        else:
            with_batch_norm_on_cpu(child)
    return network


class SyncBatchNormOnCPU(nn.BatchNorm3d):
    """Batch norm over the batches of all processes, with its gradient, in plain PyTorch operations."""

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        axes = [0, 2, 3, 4]
        count = all_reduce(x.new_tensor(x.numel() / x.shape[1]))
        mean = all_reduce(x.sum(axes)) / count
        centred = x - mean.view(1, -1, 1, 1, 1)
        variance = all_reduce((centred**2).sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.view(1, -1, 1, 1, 1) + self.bias.view(1, -1, 1, 1, 1)

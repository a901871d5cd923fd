"""Optimiser and learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from nnunet_topomae.config import OF_PRESET


def peak_lr(knob: float, of_preset: float) -> float:
    """The learning rate that a knob asks for."""
    return of_preset if knob == OF_PRESET else knob


class WarmupCosineSchedule:
    """Linear warm-up, then a half cosine to zero; nnU-Net calls `step(epoch)` once before each epoch.

    Every parameter group carries its own `peak_lr`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, num_epochs: int, warmup_fraction: float) -> None:
        self.optimizer = optimizer
        self.num_epochs = num_epochs
        self.warmup_epochs = round(warmup_fraction * num_epochs)

    def factor(self, epoch: int) -> float:
        """Part of the peak learning rate, in (0, 1], that holds in `epoch`."""
        if epoch < self.warmup_epochs:
            return (epoch + 1) / (self.warmup_epochs + 1)
        progress = (epoch - self.warmup_epochs) / (self.num_epochs - self.warmup_epochs)
        return (1 + math.cos(math.pi * progress)) / 2

    def step(self, epoch: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.factor(epoch)


def adamw(groups: Iterable[tuple[Iterable[nn.Parameter], float]], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over (parameters, peak learning rate) pairs. Biases, norms and scales are not decayed."""
    param_groups = []
    for parameters, peak_lr in groups:
        parameters = list(parameters)
        for decay, chosen in (
            (weight_decay, [p for p in parameters if p.ndim >= 2]),
            (0.0, [p for p in parameters if p.ndim < 2]),
        ):
            if chosen:
                param_groups.append({"params": chosen, "lr": peak_lr, "peak_lr": peak_lr, "weight_decay": decay})
    on_gpu = all(parameter.is_cuda for group in param_groups for parameter in group["params"])
    return torch.optim.AdamW(param_groups, betas=(0.9, 0.95), fused=on_gpu or None)  # reads no scale on the host

"""Optimiser and learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from nnunet_topomae.config import TopoMAEConfig, or_preset
from nnunet_topomae.networks.partners import partner_class
from nnunet_topomae.networks.presets import PRESETS

WARMUP_FRACTION = 0.05  # of the steps: He et al. 2022 warm up in 40 of 800 epochs


class Rates(NamedTuple):
    """Peak learning rates of the partner and of new layers, and the ViT's as factors on these."""

    pretrain: float
    finetune: float
    vit_pretrain_factor: float
    vit_finetune_factor: float


def peak_rates(config: TopoMAEConfig) -> Rates:
    """What the knobs ask for, each its own value or the preset's. The ViT's own rates do not depend on its partner."""
    vit, (pretrain, finetune) = PRESETS[config.preset], partner_class(config.partner).learning_rates(config.preset)
    preset = (pretrain, finetune, vit.pretrain_lr / pretrain, vit.finetune_lr / finetune)
    asked = (config.pretrain_lr, config.finetune_lr, config.vit_pretrain_lr_factor, config.vit_finetune_lr_factor)
    return Rates(*map(or_preset, asked, preset))


class ParameterGroup(NamedTuple):
    """Parameters that learn at a rate of their own: a part of a network."""

    name: str
    parameters: Iterable[nn.Parameter]
    peak_lr: float


class WarmupCosineSchedule:
    """Linear warm-up, then a half cosine to zero, step by step.

    A warm-up by epochs would begin a short training at a large part of the peak: at half of it, in twelve epochs.
    nnU-Net calls `step(epoch)` once before each epoch, the trainer `advance()` after each step of the optimiser. Every
    parameter group carries its own `peak_lr`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, num_epochs: int, steps_per_epoch: int) -> None:
        self.optimizer = optimizer
        self.steps_per_epoch = steps_per_epoch
        self.num_steps = num_epochs * steps_per_epoch
        self.warmup_steps = round(WARMUP_FRACTION * self.num_steps)
        self.current_step = 0

    def factor(self, step: int) -> float:
        """Part of the peak learning rate, in [0, 1], that holds in `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(self.num_steps - self.warmup_steps, 1)
        return (1 + math.cos(math.pi * min(progress, 1))) / 2

    def step(self, epoch: int) -> None:
        """To the beginning of an epoch: a resumed training goes on where it was."""
        self.current_step = epoch * self.steps_per_epoch
        self._set_rates()

    def advance(self) -> None:
        """To the next step of the optimiser."""
        self.current_step += 1
        self._set_rates()

    def _set_rates(self) -> None:
        factor = self.factor(self.current_step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def adamw(groups: Iterable[ParameterGroup], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over groups of parameters. Biases, norms and scales are not decayed."""
    param_groups: list[dict[str, Any]] = []
    for name, parameters, peak_lr in groups:
        parameters = list(parameters)
        for decay, chosen in (
            (weight_decay, [p for p in parameters if p.ndim >= 2]),
            (0.0, [p for p in parameters if p.ndim < 2]),
        ):
            if chosen:
                param_groups.append(
                    {"name": name, "params": chosen, "lr": peak_lr, "peak_lr": peak_lr, "weight_decay": decay}
                )
    devices = {parameter.device.type for group in param_groups for parameter in group["params"]}
    # One pass over the weights, and on a GPU no scale of the gradients is read on the host.
    return torch.optim.AdamW(param_groups, betas=(0.9, 0.95), fused="mps" not in devices or None)

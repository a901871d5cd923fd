"""Whether a training fits the GPU that it is about to run on, and what would."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks.presets import PRESETS
from nnunet_topomae.networks.summary import NetworkSummary
from nnunet_topomae.planning.configuration import Configuration
from nnunet_topomae.planning.memory import GIB, MIN_BATCH, USABLE_MEMORY, Workload, largest_batch
from nnunet_topomae.planning.plans_file import Plans, configuration_of


def gpu_memory(device: torch.device) -> float | None:
    """GiB of a GPU; None of what is no GPU."""
    return torch.cuda.get_device_properties(device).total_memory / GIB if device.type == "cuda" else None


@dataclass(frozen=True)
class GPUFit:
    """A training beside the memory of a GPU.

    Args:
        plans, dataset_json, configuration: of nnU-Net.
        config: the knobs in force.
        phases: that are to come: "pre-training", "fine-tuning".
        batch_size: on this GPU.
        memory_gib: of the GPU.
    """

    plans: Plans
    dataset_json: dict[str, Any]
    configuration: str
    config: TopoMAEConfig
    phases: Sequence[str]
    batch_size: int
    memory_gib: float

    def largest_batch(self, preset: str) -> int:
        """The largest batch that fits all phases."""
        return largest_batch(self._summaries(preset).values(), self.memory_gib)

    @property
    def fits(self) -> bool:
        return self.largest_batch(self.config.preset) >= self.batch_size

    def advice(self) -> str:
        """What the phases need by estimate, what the GPU has, and which preset or plans fit."""
        preset, summaries = self.config.preset, self._summaries(self.config.preset)
        needs = {
            phase: summary.training_bytes(self.batch_size) / GIB / USABLE_MEMORY for phase, summary in summaries.items()
        }
        beside = "Is another program using it? Else: plans for less" if self.fits else self._fitting_preset()
        memory_gib = min(self.memory_gib, 0.75 * max(needs.values())) if self.fits else self.memory_gib
        patch = "×".join(map(str, self._configuration["patch_size"]))
        partner = "" if self.config.partner == TopoMAEConfig.partner else f" --partner {self.config.partner}"
        by_phase = ", ".join(f"{phase} {need:.1f} GiB" for phase, need in needs.items())
        return (
            f"By estimate preset {preset} needs, at patch {patch} and batch {self.batch_size}: {by_phase}; this GPU "
            f"has {self.memory_gib:.1f} GiB. {beside}:\n"
            f"  nnunet-topomae plan {shlex.join(['-d', self.plans['dataset_name'], '-p', self.plans['plans_name']])} "
            f"--memory {memory_gib:.1f} --preset {preset}{partner}"
        )

    def _fitting_preset(self) -> str:
        smaller = list(PRESETS)[: list(PRESETS).index(self.config.preset)]
        for preset in reversed(smaller):
            if self.largest_batch(preset) >= max(self.batch_size, MIN_BATCH):
                return f"Preset {preset} fits: NNUNET_TOPOMAE_PRESET={preset}, in both phases. So do smaller plans"
        return "No smaller preset fits it, plans with a smaller patch or batch do"

    def _summaries(self, preset: str) -> dict[str, NetworkSummary]:
        workload = Workload.of(self.plans, self.dataset_json, self.configuration, self.config)
        summaries = workload.summarise(self._configuration, preset)
        return {phase: summaries[phase] for phase in self.phases}

    @property
    def _configuration(self) -> Configuration:
        return configuration_of(self.plans, self.configuration).configuration

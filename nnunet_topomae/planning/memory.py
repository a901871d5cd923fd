"""Patch and batch such that both phases fit into the memory of a GPU."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_topomae.config import PLANS_SECTION, TopoMAEConfig
from nnunet_topomae.networks.summary import NetworkSummary, summarise_finetuning, summarise_pretraining
from nnunet_topomae.planning.blueprint import Blueprint, geometry_of
from nnunet_topomae.planning.configuration import Configuration, pooling, with_patch
from nnunet_topomae.planning.plans_file import Plans

GIB = 2**30
USABLE_MEMORY = 0.75  # a judgement: the loss, the workspace of convolutions and CUDA itself are not in the estimate
MIN_BATCH = 2  # nnU-Net's
MAX_DATASET_COVERED = 0.05  # nnU-Net's: no batch holds more than this part of the dataset's voxels


@dataclass(frozen=True)
class Workload:
    """What the cost of both networks depends on besides the configuration of a plan.

    Attributes:
        image_channels: of pre-training.
        input_channels: of fine-tuning; a cascade adds the previous segmentation.
        num_outputs: of the segmentation.
        config: the knobs.
    """

    image_channels: int
    input_channels: int
    num_outputs: int
    config: TopoMAEConfig

    @classmethod
    def of(cls, plans: Plans, dataset_json: dict[str, Any], configuration: str, config: TopoMAEConfig) -> Workload:
        """Of a configuration in the plans."""
        manager = PlansManager(plans)
        chosen = manager.get_configuration(configuration)
        return cls(
            image_channels=len(chosen.normalization_schemes),
            input_channels=determine_num_input_channels(manager, chosen, dataset_json),
            num_outputs=manager.get_label_manager(dataset_json).num_segmentation_heads,
            config=config,
        )

    def summarise(self, configuration: Configuration, preset: str | None = None) -> dict[str, NetworkSummary]:
        """Both phases by name, for any patch and strides; `preset`: another than the knob's."""
        config = replace(self.config, preset=preset or self.config.preset)
        parts = Blueprint.of(configuration, config)
        return {
            "pre-training": summarise_pretraining(self.image_channels, *parts, config.mask_ratio),
            "fine-tuning": summarise_finetuning(self.input_channels, self.num_outputs, *parts, config.fusion),
        }


def largest_batch(summaries: Iterable[NetworkSummary], memory_gib: float) -> int:
    """The largest batch that fits all of them into the usable part of the memory; 0 if none does."""
    return min(summary.largest_batch(int(USABLE_MEMORY * memory_gib * GIB)) for summary in summaries)


def fit_plans(
    plans: Plans,
    dataset_json: dict[str, Any],
    memory_gib: float,
    new_name: str,
    preset: str | None = None,
    partner: str | None = None,
) -> Plans:
    """The plans with a patch and a batch for these networks in each 3d configuration, and with the knobs asked for.

    A patch stays as nnU-Net planned it if two crops of it fit; else it is shrunk by the rule of nnU-Net's planner until
    they do. Then the batch grows as far as memory and nnU-Net's limit of 5 % of the dataset's voxels allow. Spacing and
    `data_identifier` stay, so the variant uses the preprocessed data of the plans that it comes from.

    Args:
        plans: made by nnU-Net; not changed.
        dataset_json: of the same dataset.
        memory_gib: of the GPU.
        new_name: of the variant.
        preset, partner: the knobs of that name; None: as in the plans.

    Raises:
        ValueError: no 3d configuration; nothing fits.
        ConfigError: a bad knob in the plans.
    """
    new = {**deepcopy(plans), "plans_name": new_name}
    asked = {name: value for name, value in (("preset", preset), ("partner", partner)) if value is not None}
    new[PLANS_SECTION] = {**plans.get(PLANS_SECTION, {}), **asked}
    config = TopoMAEConfig.from_plans(new)
    names = [name for name, own in plans["configurations"].items() if len(own.get("patch_size", ())) == 3]
    if not names:
        raise ValueError(f"{plans['plans_name']} of {plans['dataset_name']} has no 3d configuration")
    for name in names:
        workload = Workload.of(plans, dataset_json, name, config)
        configuration = PlansManager(plans).get_configuration(name).configuration
        new["configurations"][name] = _fit(configuration, workload, memory_gib, dataset_json["numTraining"])
    return new


def _fit(configuration: Configuration, workload: Workload, memory_gib: float, num_training: int) -> Configuration:
    candidates = list(_smaller_and_smaller(configuration))
    batches: dict[int, int] = {}

    def fits(number: int) -> bool:
        batches[number] = largest_batch(workload.summarise(candidates[number]).values(), memory_gib)
        return batches[number] >= MIN_BATCH

    chosen = 0 if fits(0) else bisect_left(range(len(candidates)), True, lo=1, key=fits)
    if chosen == len(candidates):
        raise ValueError(
            f"not even {MIN_BATCH} crops of {candidates[-1]['patch_size']} fit {memory_gib:g} GiB with the "
            f"{workload.config.preset} networks: take a smaller --preset or more --memory"
        )
    fitting = candidates[chosen]
    dataset_voxels = num_training * np.prod(fitting["median_image_size_in_voxels"], dtype=float)
    cap = round(MAX_DATASET_COVERED * dataset_voxels / np.prod(fitting["patch_size"]))
    return {**fitting, "batch_size": max(MIN_BATCH, min(batches[chosen], cap))}


def _smaller_and_smaller(configuration: Configuration) -> Iterator[Configuration]:
    """The configuration, then with ever smaller patches as long as the networks have a geometry for them.

    As nnU-Net's planner does: the axis that is longest relative to the median image loses as little as it can.
    """
    geometry_of(configuration)  # the plan's own patch must have one: its error says why not
    spacing, median = configuration["spacing"], np.array(configuration["median_image_size_in_voxels"])
    patch = tuple(configuration["patch_size"])
    while True:
        yield configuration
        axis = int(np.argsort(np.array(patch) / median)[-1])  # of equals the last, as there
        voxels = np.prod(patch)
        patch = _shrunk(spacing, patch, axis)
        if np.prod(patch) >= voxels or min(patch) < 1:
            return
        configuration = with_patch(configuration, patch)
        try:
            geometry_of(configuration)
        except ValueError:
            return


def _shrunk(spacing: list[float], patch: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Less on one axis by its divisor in a patch already smaller: 256, divided by 64, becomes 224 and not 192."""

    def less(by: np.ndarray) -> list[int]:
        return [size - int(by[axis]) * (number == axis) for number, size in enumerate(patch)]

    divisors = pooling(spacing, patch)[2]
    divisors = pooling(spacing, less(divisors))[2]
    return pooling(spacing, less(divisors))[1]

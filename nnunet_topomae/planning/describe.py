"""What the networks will look like for a plan, before anything is trained: `nnunet-topomae describe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks.presets import PRESETS
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.planning.host_work import HostWork
from nnunet_topomae.planning.memory import GIB, USABLE_MEMORY, Workload, largest_batch
from nnunet_topomae.planning.plans_file import Plans, configuration_of
from nnunet_topomae.visualization.tables import markdown_table


def describe(
    plans: Plans, dataset_json: dict[str, Any], configuration: str, memory_gib: float, all_presets: bool = False
) -> str:
    """Geometry, and parameters, multiply-adds, memory and the largest batch of both phases, as two Markdown tables.

    Below them, what a step of pre-training asks of the host's cores.

    Args:
        plans: of a nnU-Net dataset.
        dataset_json: of the same dataset.
        configuration: a 3d one.
        memory_gib: of the GPU that the batch is to fit.
        all_presets: show every preset, not only the one in force.

    Raises:
        ValueError: the configuration has no geometry (2d, patch too small), or the plans do not have it.
        ConfigError: a bad knob.
    """
    config = TopoMAEConfig.resolve(plans)
    chosen = configuration_of(plans, configuration)
    blueprint = Blueprint.of(chosen.configuration, config)
    workload = Workload.of(plans, dataset_json, configuration, config)
    head = (
        "preset",
        "phase",
        "parameters",
        "multiply-adds",
        f"memory, batch {chosen.batch_size}",
        f"batch in {memory_gib:g} GiB",
    )
    phases = [
        (
            name,
            phase,
            f"{summary.parameters / 1e6:.1f} M",
            f"{summary.multiply_adds / 1e9:.1f} G",
            f"{summary.training_bytes(chosen.batch_size) / GIB:.1f} GiB",
            largest_batch([summary], memory_gib),
        )
        for name in (PRESETS if all_presets else (config.preset,))
        for phase, summary in workload.summarise(chosen.configuration, name).items()
    ]
    return "\n".join(
        [
            f"{plans['dataset_name']}, {plans['plans_name']}, {configuration}: "
            f"{workload.image_channels} channel(s), {workload.num_outputs} output(s)\n",
            markdown_table(("", "first axis", "second axis", "third axis"), _geometry_rows(blueprint)),
            "",
            markdown_table(head, phases),
            "",
            f"Preset in force: {config.preset}. Memory is an estimate for mixed precision, without the loss, the",
            f"workspace of convolutions and CUDA itself; the batch leaves {1 - USABLE_MEMORY:.0%} of a GPU to these.",
            str(HostWork.of(blueprint.geometry, workload.image_channels, chosen.batch_size, config)),
        ]
    )


def _geometry_rows(blueprint: Blueprint) -> list[Sequence[object]]:
    geometry, partner = blueprint.geometry, blueprint.partner
    return [
        ("patch (voxels)", *geometry.patch_size),
        *((f"{partner.title} stage {number} grid", *grid) for number, grid in enumerate(partner.stage_grids, start=1)),
        ("ViT token (voxels)", *geometry.token_size),
        (f"ViT token grid ({geometry.num_tokens} tokens)", *geometry.token_grid),
    ]

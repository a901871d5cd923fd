"""What only a GPU can show of the networks, as two tables: memory beside its estimate, half precision beside single.

    python benchmarks/gpu_checks.py memory    [--presets tiny small base] [--patches 64 96 128] [--batch 2]
    python benchmarks/gpu_checks.py precision [--preset small] [--patch 64] [--steps 50]

With --device cpu, at small sizes, the same code is run, without what a GPU measures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from networks import blueprint, hybrid, pretraining_step, segmentation_step

from nnunet_topomae.networks import PRESETS
from nnunet_topomae.networks.summary import summarise_finetuning, summarise_pretraining
from nnunet_topomae.visualization.tables import markdown_table

NUM_CLASSES = 9  # of the hybrid network in networks.py


def peak_gibibytes(prepare: Callable[[], Callable[[], object]], device: torch.device) -> float | None:
    """Of the allocator, over two steps; None on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = prepare()
    step(), step()
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None


def memory(options: argparse.Namespace) -> None:
    device, rows = torch.device(options.device), []
    for preset in options.presets:
        for side in options.patches:
            patch = (side,) * 3
            phases = {
                "pre-training": (
                    summarise_pretraining(1, *blueprint(patch, preset)),
                    partial(pretraining_step, preset, patch, options.batch, device),
                ),
                "fine-tuning": (
                    summarise_finetuning(1, NUM_CLASSES, *blueprint(patch, preset)),
                    partial(segmentation_step, partial(hybrid, preset=preset), patch, options.batch, device),
                ),
            }
            for phase, (summary, prepare) in phases.items():
                estimate = summary.training_bytes(options.batch) / 2**30
                try:
                    measured = peak_gibibytes(prepare, device)
                    cells = ("–", "–") if measured is None else (f"{measured:.2f} GiB", f"{measured / estimate:.2f}")
                except torch.cuda.OutOfMemoryError:
                    cells = "more than the card has", "–"
                rows.append([preset, f"{side}³", phase, f"{estimate:.2f} GiB", *cells])
                print(" | ".join(rows[-1]), flush=True)
    print(f"\nBatch {options.batch}\n")
    print(markdown_table(["preset", "patch", "phase", "describe's estimate", "measured", "measured / estimate"], rows))


def precision(options: argparse.Namespace) -> None:
    """The same crops, masks and weights at first, by both; the losses after so many steps."""
    from nnunet_topomae.config import TopoMAEConfig
    from nnunet_topomae.losses.pretraining import PretrainingLoss
    from nnunet_topomae.losses.term import BRANCHES
    from nnunet_topomae.networks import CoPretrainingNetwork
    from nnunet_topomae.pretext.masking import draw_masks
    from nnunet_topomae.training.schedule import ParameterGroup, adamw

    device, patch = torch.device(options.device), (options.patch,) * 3
    parts, config = blueprint(patch, options.preset), TopoMAEConfig(weight_topology=100, topology_max_side=32)
    geometry = parts.geometry
    curves = {}
    for half in (False, True):
        torch.manual_seed(0)
        network = CoPretrainingNetwork(1, *parts).to(device)
        criterion = PretrainingLoss(config, geometry)
        optimizer = adamw([ParameterGroup("all", network.parameters(), 3e-4)], 0.05)
        scaler = torch.amp.GradScaler(device.type, enabled=half and device.type == "cuda")
        generator, losses = torch.Generator().manual_seed(1), []
        for _ in range(options.steps):
            coarse = torch.randn(2, 1, 8, 8, 8, generator=generator)
            image = torch.nn.functional.interpolate(coarse, patch, mode="trilinear").to(device)
            points = torch.rand(2, 9, 3, generator=generator).to(device)
            masks = draw_masks(2, parts.vit.views, geometry.num_tokens, 0.75, generator)
            optimizer.zero_grad(set_to_none=True)
            target = criterion.target(image, points, masks)
            with torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16, enabled=half):
                answers = {branch: network(image, masks, branch) for branch in BRANCHES}
            outputs = {branch: criterion.answered(branch, answer, target) for branch, answer in answers.items()}
            loss = sum(criterion.total(criterion(branch, outputs, target)) for branch in outputs)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        curves[half] = losses
    marks = sorted({0, options.steps // 4, options.steps // 2, options.steps - 1})
    rows = [
        [step + 1, *(f"{curves[half][step]:.4f}" for half in (False, True)), f"{_difference(curves, step):.2%}"]
        for step in marks
    ]
    print(f"Pre-training, preset {options.preset}, patch {options.patch}³\n")
    print(markdown_table(["step", "loss, float32", "loss, autocast", "difference"], rows))


def _difference(curves: dict[bool, list[float]], step: int) -> float:
    return abs(curves[True][step] / curves[False][step] - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    checks = parser.add_subparsers(dest="check", required=True)
    of_memory = checks.add_parser("memory")
    of_memory.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    of_memory.add_argument("--patches", nargs="+", type=int, default=[64, 96, 128])
    of_memory.add_argument("--batch", type=int, default=2)
    of_precision = checks.add_parser("precision")
    of_precision.add_argument("--preset", choices=PRESETS, default="small")
    of_precision.add_argument("--patch", type=int, default=64)
    of_precision.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    {"memory": memory, "precision": precision}[options.check](options)


if __name__ == "__main__":
    main()

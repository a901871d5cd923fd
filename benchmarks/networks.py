"""Time and memory of a training step of our networks beside other networks, into docs/benchmarks.md.

    python benchmarks/networks.py [--patch 64 128 128] [--batch 2] [--device cpu|cuda] [--rounds 3]

A step is forward, nnU-Net's loss (Dice and cross-entropy, deep supervision where the network has it; for pre-training
the losses without topology), backward, the optimiser. Each network runs in a process of its own; they take turns, so
that a drift of the machine hits all alike. On a GPU under mixed precision, elapsed time and the allocator's peak; on a
CPU one core, CPU time and the growth of the process. MONAI's networks are left out where MONAI is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from machine import add_docs, installed, machine, memory_kilobytes, replace_section

from nnunet_topomae.visualization.tables import markdown_table

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nnunet_topomae.networks import CoPretrainingNetwork
    from nnunet_topomae.networks.partners.plan import PlanPartner
    from nnunet_topomae.planning.blueprint import Blueprint

PACKAGES = ("torch", "nnunetv2", "dynamic-network-architectures", "monai")
NUM_CLASSES = 9
BASELINE = "nnU-Net, PlainConvUNet"
# Preset, and whether the partner is nnU-Net's network.
OURS = {"small": ("small", False), "base": ("base", False), "small beside nnU-Net's": ("small", True)}
PRETRAINING, FINETUNING = "ours, pre-training ({})", "ours, fine-tuning ({})"


# --- The networks: each function imports what it needs. ---------------------------------------------------------------


def plain_conv_unet(patch: Sequence[int]) -> nn.Module:
    return _plain(patch).nnunets_network(1, NUM_CLASSES, deep_supervision=True)


def residual_encoder_unet_l(patch: Sequence[int]) -> nn.Module:
    blocks = (1, 3, 4, 6, 6, 6)[: len(_pooling(patch))]
    plan = _unet("ResidualEncoderUNet", patch, n_blocks_per_stage=blocks, n_conv_per_stage_decoder=1)
    return plan.nnunets_network(1, NUM_CLASSES, deep_supervision=True)


def _plain(patch: Sequence[int]) -> PlanPartner:
    return _unet("PlainConvUNet", patch, n_conv_per_stage=2, n_conv_per_stage_decoder=2)


def _unet(name: str, patch: Sequence[int], **blocks) -> PlanPartner:
    """Strides, widths and layers as nnU-Net's planner chooses them for a patch of isotropic spacing."""
    from nnunet_topomae.networks.partners.plan import PlanPartner

    strides = _pooling(patch)
    arguments = {
        "n_stages": len(strides),
        "features_per_stage": [min(320, 32 * 2**stage) for stage in range(len(strides))],
        "conv_op": "torch.nn.Conv3d",
        "kernel_sizes": 3,
        "strides": strides,
        "conv_bias": True,
        "norm_op": "torch.nn.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **blocks,
    }
    class_name = f"dynamic_network_architectures.architectures.unet.{name}"
    return PlanPartner(tuple(patch), class_name, arguments, ("conv_op", "norm_op", "nonlin"))


def _pooling(patch: Sequence[int]) -> list[list[int]]:
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    return [list(stride) for stride in get_pool_and_conv_props((1, 1, 1), patch, 4, 999999)[1]]


def primus(patch: Sequence[int], dim: int, depth: int, heads: int) -> nn.Module:
    """With nnU-Net's settings of its Primus trainers."""
    from dynamic_network_architectures.architectures.primus import Primus

    options = {"drop_path_rate": 0.2, "scale_attn_inner": True, "init_values": 0.1}
    return Primus(1, dim, (8, 8, 8), NUM_CLASSES, depth, heads, tuple(patch), **options)


def primus_s(patch: Sequence[int]) -> nn.Module:
    return primus(patch, 396, 12, 6)


def primus_m(patch: Sequence[int]) -> nn.Module:
    return primus(patch, 864, 16, 12)


def monai_unetr(patch: Sequence[int]) -> nn.Module:
    from monai.networks.nets import UNETR

    return UNETR(1, NUM_CLASSES, tuple(patch))


def monai_swin_unetr(patch: Sequence[int]) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(1, NUM_CLASSES, feature_size=48)


def hybrid(patch: Sequence[int], preset: str, beside_plan: bool = False) -> nn.Module:
    from nnunet_topomae.networks import HybridSegmentationNetwork

    return HybridSegmentationNetwork(1, NUM_CLASSES, *blueprint(patch, preset, beside_plan))


def copretraining(patch: Sequence[int], preset: str, beside_plan: bool) -> CoPretrainingNetwork:
    from nnunet_topomae.networks import CoPretrainingNetwork

    return CoPretrainingNetwork(1, *blueprint(patch, preset, beside_plan))


def blueprint(patch: Sequence[int], preset: str, beside_plan: bool = False) -> Blueprint:
    """The ViT of that preset beside UNETR++ of the same, or beside nnU-Net's PlainConvUNet."""
    from nnunet_topomae.config import TopoMAEConfig
    from nnunet_topomae.planning.blueprint import Blueprint

    plan = {"patch_size": tuple(patch), "architecture": {"arch_kwargs": {"strides": _pooling(patch)}}}
    parts = Blueprint.of(plan, TopoMAEConfig(partner="unetrpp", preset=preset))
    return parts._replace(partner=_plain(patch)) if beside_plan else parts


# --- A step of training. `prepare` returns the call that is timed. ----------------------------------------------------


def segmentation_step(build: Callable, patch: Sequence[int], batch: int, device: torch.device) -> Callable[[], None]:
    import torch
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    network = build(patch).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.99, nesterov=True)
    image = torch.randn(batch, 1, *patch, device=device)
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    outputs = network(image)
    several = isinstance(outputs, (list, tuple))
    shapes = [output.shape[2:] for output in (outputs if several else [outputs])]
    targets = [torch.randint(0, NUM_CLASSES, (batch, 1, *shape), device=device) for shape in shapes]
    if several:
        loss = DeepSupervisionWrapper(loss, [1 / 2**i for i in range(len(shapes))])
    return _step(lambda: loss(network(image), targets if several else targets[0]), optimizer, device)


def pretraining_step(
    preset: str, patch: Sequence[int], batch: int, device: torch.device, beside_plan: bool = False
) -> Callable[[], object]:
    import torch

    from nnunet_topomae.config import TopoMAEConfig
    from nnunet_topomae.losses.pretraining import PretrainingLoss
    from nnunet_topomae.networks import PRESETS
    from nnunet_topomae.training.pretraining_step import PretrainingStep
    from nnunet_topomae.training.schedule import ParameterGroup, adamw

    network = copretraining(patch, preset, beside_plan).to(device)
    config = TopoMAEConfig(weight_topology=0)
    criterion = PretrainingLoss(config, network.geometry)
    optimizer = adamw([ParameterGroup("all", network.parameters(), 1e-4)], 0.05)
    scaler = torch.amp.GradScaler() if device.type == "cuda" else None
    views = PRESETS[preset].views
    step = PretrainingStep(network, network, criterion, optimizer, scaler, config.mask_ratio, views, (1, 1, 1), device)
    crops = {
        "data": torch.randn(batch, 1, *patch, device=device),
        "points": torch.rand(batch, 9, 3, device=device),
        "volume_shape": torch.tensor([patch] * batch, device=device),
    }
    return lambda: step.train(crops)


def _step(
    loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, device: torch.device
) -> Callable[[], None]:
    import torch

    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            value = loss()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


SEGMENTATION = {
    BASELINE: plain_conv_unet,
    "nnU-Net, ResEnc-L": residual_encoder_unet_l,
    "Primus-S": primus_s,
    "Primus-M": primus_m,
    "MONAI UNETR": monai_unetr,
    "MONAI SwinUNETR": monai_swin_unetr,
    **{FINETUNING.format(name): partial(hybrid, preset=p, beside_plan=plan) for name, (p, plan) in OURS.items()},
}
PRETRAININGS = {PRETRAINING.format(name): sizes for name, sizes in OURS.items()}


# --- Measuring --------------------------------------------------------------------------------------------------------


def measure(name: str, patch: Sequence[int], batch: int, device_name: str, steps: int) -> dict[str, float]:
    """Seconds a step and gigabytes, in this process."""
    import torch

    device = torch.device(device_name)
    if device.type == "cpu":
        torch.set_num_threads(1)
    before = memory_kilobytes("VmRSS")
    if name in SEGMENTATION:
        step = segmentation_step(SEGMENTATION[name], patch, batch, device)
    else:
        preset, beside_plan = PRETRAININGS[name]
        step = pretraining_step(preset, patch, batch, device, beside_plan)
    step()
    clock = time.process_time
    if device.type == "cuda":
        step()  # cuDNN has chosen its kernels by now
        torch.cuda.synchronize()
        clock = time.perf_counter
    start = clock()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = (clock() - start) / steps
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * (memory_kilobytes("VmHWM") - before)
    return {"seconds": seconds, "gigabytes": peak / 2**30}


def parameters(name: str, patch: Sequence[int]) -> float:
    """Millions."""
    network = SEGMENTATION[name](patch) if name in SEGMENTATION else copretraining(patch, *PRETRAININGS[name])
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=[64, 128, 128])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps a round (default: %(default)s)")
    add_docs(parser)
    options = parser.parse_args()

    names = [name for name in (*SEGMENTATION, *PRETRAININGS) if not name.startswith("MONAI") or installed("monai")]
    context = multiprocessing.get_context("spawn")
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for done in range(options.rounds):
        for name in names:
            with context.Pool(1) as pool:
                result = pool.apply(measure, (name, options.patch, options.batch, options.device, options.steps))
            measured[name].append(result)
            print(f"round {done + 1}: {name}: {result['seconds']:.3g} s, {result['gigabytes']:.2f} GiB", flush=True)

    seconds = {name: statistics.median(result["seconds"] for result in measured[name]) for name in names}
    rows = [
        [
            name,
            f"{parameters(name, options.patch):.1f} M",
            f"{seconds[name] / seconds[BASELINE]:.2f}",
            f"{min(r['gigabytes'] for r in measured[name]):.2f} GiB",
        ]
        + ([f"{1000 * seconds[name]:.0f} ms"] if options.device == "cuda" else [])
        for name in names
    ]
    head = ["network", "parameters", f"step / {BASELINE}", "memory"] + ["step"] * (options.device == "cuda")
    patch = "×".join(map(str, options.patch))
    text = f"""### Patch {patch}

Written by `benchmarks/networks.py` on {machine(PACKAGES)}{_gpu(options.device)}.
One training step, batch {options.batch}, one channel, {NUM_CLASSES} classes; median of {options.rounds}
rounds in which the networks took turns. Pre-training: both networks, without topology.

{markdown_table(head, rows)}
"""
    replace_section(options.docs / "benchmarks.md", f"networks-{options.device}-{patch}", text)
    print(text)


def _gpu(device: str) -> str:
    if device == "cpu":
        return ", one core"
    return f", {importlib.import_module('torch').cuda.get_device_name()}"


if __name__ == "__main__":
    main()

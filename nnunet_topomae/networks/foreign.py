"""The network inside of a checkpoint, whatever program wrote it: found by what its weights are called, not by the file.

nnU-Net's trainers, nnssl, DDP, torch.compile and exponential moving averages put the same encoder under other names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch

from nnunet_topomae.networks.copretrain import PARTNER_DECODER, PARTNER_ENCODER, PARTS, is_pretraining

Weights = Mapping[str, torch.Tensor]

CERTAIN = 0.1  # of the names: two networks of one kind share more, whatever their stages; others a norm here and there
OF_PLAN = "Plan with nnUNetv2_plan_experiment -d DATASET -pl {}, then train with -p {} and NNUNET_TOPOMAE_PARTNER=plan"
# What else may be in a file: a name that tells it, what it is, and what to do.
KINDS = (
    (r"\bstages\.\d+\.blocks\.", "a residual U-Net", OF_PLAN.format("nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans")),
    (r"\bstages\.\d+\.\d+\.convs\.", "a plain U-Net", OF_PLAN.format("ExperimentPlanner", "nnUNetPlans")),
    (r"\bdownsamplings\.\d", "a UNETR++", "Set NNUNET_TOPOMAE_PARTNER=unetrpp"),
    (r"^token_embedding\.", "a ViT alone", "Name the partner's safetensors beside it, or the checkpoint that it is of"),
    (r"\b(eva|down_projection)\.", "a Primus", "Its transformer is not ours: take weights of a ResEncL"),
    (r"\bswinViT\.", "a SwinUNETR", "No plan of nnU-Net has that network: take weights of a ResEncL"),
)


def as_pretraining(weights: Weights, wanted: Iterable[str], encoder_only: bool = False) -> dict[str, torch.Tensor]:
    """The weights under the names of a `CoPretrainingNetwork`, as far as they are of such networks.

    Args:
        weights: of one network, or of several.
        wanted: names that the network has which they are for.
        encoder_only: whether the partner's decoder is to be left.

    Returns:
        All of them; what is not recognised keeps its name, and so do segmentation layers. Stages of the decoder are
        counted as in the wanted network, by the stage of the encoder that they answer to.

    Raises:
        ValueError: no encoder in it is like the wanted partner's. The message says what is in it, and what to do.
    """
    wanted = list(wanted)
    found = dict(weights)
    if not is_pretraining(weights):
        for part in PARTS:
            root = _root(weights, {name.removeprefix(part) for name in wanted if name.startswith(part)})
            if root is None and part == PARTNER_ENCODER:
                raise ValueError(f"the encoder of this run is not in it. {contents(weights)}")
            if root is not None and not (encoder_only and part == PARTNER_DECODER):
                found = {_below(part, root, name): weight for name, weight in found.items()}
        encoder_again = f"{PARTNER_DECODER}encoder."  # as nnU-Net's decoders have it
        found = {name: weight for name, weight in found.items() if not name.startswith(encoder_again)}
    shift = _stages(wanted) - _stages(found)
    return {_counted_from_the_top(name, shift): weight for name, weight in found.items()}


def _root(weights: Weights, names: set[str]) -> str | None:
    """What most of these names stand behind in `weights`; of several copies of a network the one of the shortest."""
    roots: Counter[str] = Counter()
    for name in weights:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in names:
                roots[".".join([*parts[:cut], ""])] += 1
    certain = [root for root, count in roots.items() if count > CERTAIN * len(names)]
    return min(certain, key=lambda root: (-roots[root], len(root), root), default=None)


def _below(part: str, root: str, name: str) -> str:
    """A name behind `root` behind `part` instead. Segmentation layers, which answer to other classes, keep theirs."""
    is_inside = name.startswith(root) and not name.startswith(PARTS) and ".seg_layers." not in name
    return part + name.removeprefix(root) if is_inside else name


def _stages(names: Iterable[str]) -> int:
    """Of the partner's encoder."""
    return len({name.split(".")[3] for name in names if name.startswith(f"{PARTNER_ENCODER}stages.")})


def _counted_from_the_top(name: str, shift: int) -> str:
    """nnU-Net counts a decoder's stages from the bottleneck. One that the network lacks is no name of its."""
    match = re.match(rf"{re.escape(PARTNER_DECODER)}(stages|transpconvs)\.(\d+)(.*)", name)
    if not match or not shift:
        return name
    module, stage, rest = match.groups()
    there = int(stage) + shift
    return f"{PARTNER_DECODER}{module}.{there}{rest}" if there >= 0 else f"decoder.{module}.{stage}{rest}"


def contents(weights: Weights) -> str:
    """What a checkpoint holds, and what to do with it, for a message."""
    if any(name.endswith("convs.0.conv.weight") and weight.ndim == 4 for name, weight in weights.items()):
        return "It holds a network for 2D images. Take weights of a 3D configuration"
    for pattern, kind, remedy in KINDS:
        if any(re.search(pattern, name) for name in weights):
            return f"It holds {kind}. {remedy}"
    return (
        f"It holds a network that is none of ours, with weights named {', '.join(list(weights)[:3])}. Take a "
        "checkpoint of nnU-Net, of nnssl (ResEncL, ResidualEncoderUNet, PlainConvUNet) or of this package"
    )

"""Weights from pre-training into a network whose channel count, patch or strides may differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from nnunet_topomae.networks.unetrpp import EPABlock, TokenProjection
from nnunet_topomae.networks.vit import TokenEmbedding


@dataclass(frozen=True)
class LoadReport:
    """What became of each weight.

    Attributes:
        loaded: names in the network that were copied as they are.
        adapted: names in the network that were changed to fit, with what was done.
        skipped: names in the checkpoint that the network has no use for (reconstruction and position heads).
        new: names in the network that no pre-training fills (segmentation layers, fusion).
    """

    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)}, adapted {len(self.adapted)}, new {len(self.new)}, left out {len(self.skipped)}"]
        lines += [f"  adapted {name}: {what}" for name, what in self.adapted.items()]
        lines += [f"  new: {', '.join(self.new)}", f"  left out: {', '.join(_modules(self.skipped))}"]
        return "\n".join(lines)


def load_adapted(
    network: nn.Module, source: Mapping[str, torch.Tensor], source_name: Callable[[str], str | None]
) -> LoadReport:
    """Load `source` into `network`; `source_name` gives the name there of each entry here, None for new ones.

    Raises:
        ValueError: entries that are missing or cannot be adapted, all of them listed; nothing is loaded then.
    """
    report, state, problems = LoadReport(), {}, []
    used = set()
    for name, target in network.state_dict().items():
        key = source_name(name)
        if key is None:
            report.new.append(name)
        elif key not in source:
            problems.append(f"{name}: the checkpoint has no {key}")
        else:
            used.add(key)
            weight = source[key]
            if weight.shape == target.shape:
                report.loaded.append(name)
            else:
                try:
                    weight, report.adapted[name] = _adapt(network, name, weight, target.shape)
                except ValueError as error:
                    problems.append(f"{name}: {error}")
            state[name] = weight
    if problems:
        raise ValueError("the pre-trained weights do not fit this network:\n  " + "\n  ".join(problems))
    report.skipped.extend(key for key in source if key not in used)
    network.load_state_dict(state, strict=False)
    return report


def _adapt(network: nn.Module, name: str, weight: torch.Tensor, shape: torch.Size) -> tuple[torch.Tensor, str]:
    """`weight` in `shape`, and what was done to it. Raises ValueError where widths differ."""
    module_name, _, parameter = name.rpartition(".")
    module = network.get_submodule(module_name)
    done = []
    mismatch = ValueError(f"{tuple(weight.shape)} in the checkpoint, {tuple(shape)} here")
    if weight.ndim != len(shape) or not _is_adaptable(module, parameter):
        raise mismatch
    grid = tuple(shape[-3:])
    if weight.ndim == 5 and weight.shape[1] != shape[1] and name.removesuffix(".weight") in network.keys_to_in_proj:
        done.append(f"{weight.shape[1]} to {shape[1]} input channels")
        weight = repeat_channels(weight, shape[1])
    if tuple(weight.shape[-3:]) != grid:
        done.append(f"{tuple(weight.shape[-3:])} to {grid} grid points")
        sums = isinstance(module, (TokenProjection, TokenEmbedding, nn.Conv3d))
        weight = resample(weight, grid, keep_sum=sums)
    if weight.shape != shape:
        raise mismatch
    return weight, ", ".join(done)


def _is_adaptable(module: nn.Module, parameter: str) -> bool:
    if isinstance(module, EPABlock):
        return parameter == "position_embedding"
    return parameter == "weight" and isinstance(module, (TokenProjection, TokenEmbedding, nn.Conv3d, nn.ConvTranspose3d))


def repeat_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """[out, C, ...] to [out, channels, ...] with the same response to an image that is repeated over channels.

    More channels: repeated in turn, each copy divided by the number of copies of its original. Fewer: all alike.
    """
    old = weight.shape[1]
    if channels < old:
        return weight.sum(dim=1, keepdim=True).expand(-1, channels, *weight.shape[2:]) / channels
    origin = torch.arange(channels, device=weight.device) % old
    copies = torch.bincount(origin, minlength=old)[origin].to(weight.dtype)
    return weight[:, origin] / copies.reshape(-1, *[1] * (weight.ndim - 2))


def resample(weight: torch.Tensor, grid: Sequence[int], keep_sum: bool) -> torch.Tensor:
    """Trilinear resampling of the last three axes of `weight` [..., D, H, W].

    Where the weights are summed over the grid (a kernel that reads voxels, a projection of tokens), `keep_sum`
    divides by the growth of the grid, so that the response to a constant stays the same.
    """
    old = weight.shape[-3:]
    flat = weight.reshape(1, -1, *old)
    resampled = F.interpolate(flat.float(), size=tuple(grid), mode="trilinear").to(weight.dtype)
    resampled = resampled.reshape(*weight.shape[:-3], *grid)
    return resampled * (math.prod(old) / math.prod(grid)) if keep_sum else resampled


def _modules(names: Sequence[str], depth: int = 2) -> list[str]:
    """The parts that `names` belong to, each once."""
    return list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in names))

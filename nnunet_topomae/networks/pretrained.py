"""Weights from pre-training into a network whose channel count, patch or strides may differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nnunet_topomae.networks.partners.partner import OnGrid
from nnunet_topomae.networks.vit import TokenEmbedding

ON_GRID: Mapping[type[nn.Module], OnGrid] = MappingProxyType(
    {
        nn.Conv3d: OnGrid("weight", summed=True),
        nn.ConvTranspose3d: OnGrid("weight", summed=False),
        TokenEmbedding: OnGrid("weight", summed=True),
    }
)


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
        lines = [
            f"{len(self.loaded)} weights loaded, {len(self.adapted)} adapted, {len(self.new)} new, "
            f"{len(self.skipped)} of the checkpoint not needed"
        ]
        lines += [f"  adapted {name}: {what}" for name, what in self.adapted.items()]
        return "\n".join([*lines, f"  new: {_parts(self.new)}", f"  not needed: {_parts(self.skipped)}"])


def load_adapted(
    network: nn.Module,
    source: Mapping[str, torch.Tensor],
    source_name: Callable[[str], str | None],
    not_needed: tuple[str, ...],
    label_channels: int = 0,
) -> LoadReport:
    """Load `source` into `network`, whose `keys_to_in_proj` name the layers that read the input's channels, and whose
    `on_grid` says what belongs to a grid, besides `ON_GRID`.

    Args:
        source_name: the name in `source` of each entry of the network's state dict; None for new ones.
        not_needed: prefixes of the names in `source` that the network has no use for.
        label_channels: how many of the network's input channels, the last ones, are no image: see `load_pretrained`.

    Raises:
        ValueError: entries are missing, left over or cannot be adapted: all of them are listed, nothing is loaded.
    """
    report, state, problems = LoadReport(), {}, []
    targets = network.state_dict()
    origins = {name: source_name(name) for name in targets}
    for name, origin in origins.items():
        if origin is None:
            report.new.append(name)
        elif origin not in source:
            problems.append(f"{name}: not in the checkpoint (as {origin})")
        else:
            try:
                state[name], done = _adapt(network, name, source[origin], targets[name].shape, label_channels)
            except ValueError as error:
                problems.append(f"{name}: {error}")
                continue
            if done:
                report.adapted[name] = done
            else:
                report.loaded.append(name)
    for key in sorted(source.keys() - set(origins.values())):
        if key.startswith(not_needed):
            report.skipped.append(key)
        else:
            problems.append(f"{key}: in the checkpoint, but not in this network")
    if problems:
        raise ValueError("the pre-trained weights do not fit this network:\n  " + "\n  ".join(sorted(problems)))
    network.load_state_dict(state, strict=False)
    return report


def _adapt(
    network: nn.Module, name: str, weight: torch.Tensor, shape: torch.Size, label_channels: int
) -> tuple[torch.Tensor, str]:
    """`weight` in `shape`, and what was done to it, if anything. Raises ValueError where widths differ."""
    module_name, _, parameter = name.rpartition(".")
    module = network.get_submodule(module_name)
    keys_to_in_proj: Any = network.keys_to_in_proj
    of_partner: Any = network.on_grid
    known = [on_grid for kind, on_grid in {**ON_GRID, **of_partner}.items() if isinstance(module, kind)]
    adapted, done = weight, []
    for on_grid in (on_grid for on_grid in known if on_grid.name == parameter):
        if module_name in keys_to_in_proj:
            image_channels = shape[1] - label_channels
            if weight.shape[1] != image_channels:
                adapted = repeat_channels(adapted, image_channels)
                done.append(f"{weight.shape[1]} input channels to {image_channels}")
            if label_channels:
                adapted = append_zero_channels(adapted, label_channels)
                done.append(f"{label_channels} label channels added, zero")
        if weight.shape[-3:] != shape[-3:]:
            adapted = resample(adapted, shape[-3:], keep_sum=on_grid.summed)
            done.append(f"grid {tuple(weight.shape[-3:])} to {tuple(shape[-3:])}")
    if adapted.shape != shape:
        raise ValueError(f"{tuple(weight.shape)} in the checkpoint, {tuple(shape)} in this network")
    return adapted, ", ".join(done)


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


def append_zero_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """[out, C, ...] to [out, C + channels, ...] with the same response, whatever the new channels hold."""
    return torch.cat([weight, weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])], dim=1)


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


def _parts(names: Sequence[str]) -> str:
    """The parts of a network that `names` belong to, each once."""
    return ", ".join(sorted({".".join(name.split(".")[:3]) for name in names}))

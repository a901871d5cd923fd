"""Weights from elsewhere into a network whose channels, patch, strides or stages may differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nnunet_topomae.networks.geometry import triple
from nnunet_topomae.networks.partners.partner import OnGrid
from nnunet_topomae.networks.vit import TokenEmbedding

ON_GRID: Mapping[type[nn.Module], OnGrid] = {
    nn.Conv3d: OnGrid("weight", summed=True),
    nn.ConvTranspose3d: OnGrid("weight", summed=False),
    TokenEmbedding: OnGrid("weight", summed=True),
}
ENCODERS = ("encoder.", "partner.encoder.")  # of the partner, in fine-tuning and in pre-training
ENOUGH = 0.5  # of the encoder's weights: with less a training does not begin from what was learnt
MOST_LISTED = 40


@dataclass(frozen=True)
class LoadReport:
    """What became of each weight; printed it is a table.

    Attributes:
        loaded: names in the network that were copied as they are.
        adapted: names in the network that were changed to fit, with what was done.
        new: names in the network that stay as they were, with the reason.
        skipped: names in the checkpoint that the network has no use for, with how many weights each has.
        sizes: of the network: how many weights each name has.
        encoder_used: part of the checkpoint's encoder that found a place.
    """

    loaded: list[str]
    adapted: dict[str, str]
    new: dict[str, str]
    skipped: dict[str, int]
    sizes: dict[str, int]
    encoder_used: float

    @property
    def encoder_filled(self) -> float:
        """Part of this network's encoder that was taken or adapted."""
        filled, new = (self._encoder_size(names) for names in ([*self.loaded, *self.adapted], self.new))
        return filled / max(filled + new, 1)

    def _encoder_size(self, names: Iterable[str]) -> int:
        return sum(self.sizes[name] for name in names if name.startswith(ENCODERS))

    def __str__(self) -> str:
        columns = {"taken": self.loaded, "adapted": self.adapted, "left new": self.new, "left over": self.skipped}
        rows: dict[str, Counter[str]] = {}
        for column, names in columns.items():
            for name in names:
                size = (self.skipped if column == "left over" else self.sizes)[name]
                rows.setdefault(_row(name), Counter())[column] += size
        lines = [f"  {'weights':22}" + "".join(f"{column:>13}" for column in columns)]
        lines += [f"  {name:22}" + "".join(f"{row[column]:13,}" for column in columns) for name, row in rows.items()]
        lines.append(
            f"  {self.encoder_filled:.0%} of this network's encoder are filled, with {self.encoder_used:.0%} of the "
            "checkpoint's encoder"
        )
        lines += [f"  adapted {name}: {what}" for name, what in self.adapted.items() if not _is_again(name)]
        for reason in sorted(set(self.new.values())):
            parts = sorted({_row(name) for name, why in self.new.items() if why == reason})
            lines.append(f"  left new, {reason}: {', '.join(parts)}")
        return "\n".join(lines)


def load_adapted(
    network: nn.Module,
    source: Mapping[str, torch.Tensor],
    source_name: Callable[[str], str | None],
    strict: tuple[str, ...] = (),
    label_channels: int = 0,
    image_channels: int | None = None,
) -> LoadReport:
    """Load `source` into `network`, whose `keys_to_in_proj` name the layers that read the input's channels, and whose
    `on_grid` says what belongs to a grid, besides `ON_GRID`. What does not fit stays new, or is left over.

    Args:
        source_name: the name in `source` of each entry of the network's state dict; None for new ones.
        strict: prefixes of names in `source` that must all find a place, and whose places must all be filled.
        label_channels, image_channels: of the network's input, of the source's: see `load_pretrained`.

    Raises:
        ValueError: of what is strict something does not fit, or not half of the partner's encoder would be filled. The
            message lists the layers, and nothing has been loaded.
    """
    loaded, adapted, new, state = [], {}, {}, {}
    problems: list[str] = []
    misfits: list[str] = []
    targets = network.state_dict()
    origins = {name: source_name(name) for name in targets}
    for name, origin in origins.items():
        if origin is None:
            new[name] = "by design"
        elif origin not in source:
            new[name] = "not in the checkpoint"
            where = problems if origin.startswith(strict) else misfits
            where.append(f"{name}: not in the checkpoint (as {origin})")
        else:
            try:
                state[name], done = _adapt(
                    network, name, source[origin], targets[name].shape, label_channels, image_channels
                )
            except ValueError as error:
                new[name] = "of other widths"
                (problems if origin.startswith(strict) else misfits).append(f"{name}: {error}")
                continue
            if done:
                adapted[name] = done
            else:
                loaded.append(name)
    used = {origins[name] for name in state}
    skipped = {key: _size(key, source[key]) for key in sorted(source.keys() - used)}
    problems += [f"{key}: in the checkpoint, but not in this network" for key in skipped if key.startswith(strict)]
    sizes = {name: _size(name, weight) for name, weight in targets.items()}
    of_encoder = {key: _size(key, weight) for key, weight in source.items() if key.startswith(ENCODERS)}
    unused = sum(size for key, size in of_encoder.items() if key in skipped)
    report = LoadReport(loaded, adapted, new, skipped, sizes, 1 - unused / max(sum(of_encoder.values()), 1))
    if problems or report.encoder_filled < ENOUGH:
        filled = f"of its partner's encoder {report.encoder_filled:.0%} would be filled"
        listed = problems + [name for name in misfits if name.startswith(ENCODERS) and not _is_again(name)]
        more = [f"... and {len(listed) - MOST_LISTED} more"] if len(listed) > MOST_LISTED else []
        lines = [f"the pre-trained weights do not fit this network, {filled}", *listed[:MOST_LISTED], *more]
        raise ValueError("\n  ".join(lines))
    network.load_state_dict(state, strict=False)
    return report


def _size(name: str, weight: torch.Tensor) -> int:
    return 0 if _is_again(name) else weight.numel()


def _is_again(name: str) -> bool:
    """Whether it is the second name that dynamic-network-architectures has for each layer of its blocks."""
    return ".all_modules." in name


def _adapt(
    network: nn.Module,
    name: str,
    weight: torch.Tensor,
    shape: torch.Size,
    label_channels: int,
    image_channels: int | None,
) -> tuple[torch.Tensor, str]:
    """`weight` in `shape`, and what was done to it, if anything. Raises ValueError where widths differ."""
    if weight.ndim != len(shape):
        raise ValueError(f"{tuple(weight.shape)} in the checkpoint, {tuple(shape)} in this network")
    module_name, _, parameter = name.rpartition(".")
    module = network.get_submodule(module_name)
    keys_to_in_proj: Any = network.keys_to_in_proj
    of_partner: Any = network.on_grid
    known = [on_grid for kind, on_grid in {**ON_GRID, **of_partner}.items() if isinstance(module, kind)]
    adapted, done = weight, []
    for on_grid in (on_grid for on_grid in known if on_grid.name == parameter):
        if module_name in keys_to_in_proj:
            adapted = weight[:, :image_channels]
            if others := weight.shape[1] - adapted.shape[1]:
                done.append(f"{others} label channels left out")
            before, now = adapted.shape[1], shape[1] - label_channels
            if before != now:
                adapted = repeat_channels(adapted, now)
                done.append(f"{before} input channels to {now}")
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
    """Resampling of the last three axes of `weight` [..., D, H, W]: means where they shrink, trilinear where they grow.

    Where the weights are summed over the grid (a kernel that reads voxels, a projection of tokens), `keep_sum`
    divides by the growth of the grid, so that the response to a constant stays the same.
    """
    old = weight.shape[-3:]
    flat = weight.reshape(1, -1, *old).float()
    shrunk = F.adaptive_avg_pool3d(flat, triple(min(edges) for edges in zip(old, grid, strict=True)))
    resampled = F.interpolate(shrunk, size=tuple(grid), mode="trilinear").to(weight.dtype)
    resampled = resampled.reshape(*weight.shape[:-3], *grid)
    return resampled * (math.prod(old) / math.prod(grid)) if keep_sum else resampled


def _row(name: str) -> str:
    """The part of a network that a weight is counted in."""
    first, *_ = parts = name.removeprefix("partner.").split(".")
    depth = 3 if parts[:2] == ["encoder", "stages"] else 2 if first in ("encoder", "decoder") else 1
    return ".".join(parts[:depth])

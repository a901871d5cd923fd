"""Tokens and voxels. Everything that orders tokens is here: row-major over the token grid, the last axis fastest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch._compile import _disable_dynamo


def patchify(volume: torch.Tensor, token_size: Sequence[int]) -> torch.Tensor:
    """[B, C, D, H, W] to tokens [B, N, C·d·h·w]; within a token channels come first, then voxels in row-major order."""
    batch, channels, *size = volume.shape
    if any(edge % step for edge, step in zip(size, token_size, strict=True)):
        raise ValueError(f"a volume of {tuple(size)} voxels does not divide into tokens of {tuple(token_size)}")
    (d, h, w), (gd, gh, gw) = token_size, (edge // step for edge, step in zip(size, token_size, strict=True))
    blocks = volume.reshape(batch, channels, gd, d, gh, h, gw, w)
    return blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, gd * gh * gw, channels * d * h * w)


def unpatchify(
    tokens: torch.Tensor, token_grid: Sequence[int], token_size: Sequence[int], channels: int
) -> torch.Tensor:
    """The inverse of `patchify`: tokens [B, N, C·d·h·w] to a volume [B, C, D, H, W]."""
    (gd, gh, gw), (d, h, w) = token_grid, token_size
    blocks = tokens.reshape(-1, gd, gh, gw, channels, d, h, w)
    return blocks.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, channels, gd * d, gh * h, gw * w)


def expand_mask(mask: torch.Tensor, token_grid: Sequence[int], token_size: Sequence[int]) -> torch.Tensor:
    """Masks over tokens [..., N] to masks over voxels [..., 1, D, H, W]."""
    voxels = mask.flatten(0, -2).unsqueeze(-1).expand(-1, -1, math.prod(token_size))
    return unpatchify(voxels, token_grid, token_size, channels=1).unflatten(0, mask.shape[:-1])


@_disable_dynamo  # the number of visible tokens is read on the host; everything after has a static shape
def visible_tokens(mask: torch.Tensor) -> torch.Tensor:
    """Indices [..., M] of the tokens that masks [..., N] (True: masked) leave visible, ascending in each row.

    Raises:
        ValueError: the rows leave different numbers of tokens visible, or none.
    """
    counts = set((~mask).sum(dim=-1).flatten().tolist())
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"every row of a mask must leave the same number of tokens visible, at least one; got {sorted(counts)}"
        )
    return (~mask).nonzero()[:, -1].reshape(*mask.shape[:-1], counts.pop())


def gather_tokens(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Of tokens [..., N, C] those at `ids` [..., M]: [..., M, C]. Axes that tokens lack are broadcast."""
    tokens = tokens.expand(*ids.shape[:-1], *tokens.shape[-2:])
    return tokens.gather(-2, ids.unsqueeze(-1).expand(*ids.shape, tokens.shape[-1]))


def scatter_tokens(tokens: torch.Tensor, ids: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """`background` [B, N, C] with `tokens` [B, M, C] in the places `ids` [B, M]."""
    return background.scatter(1, ids.unsqueeze(-1).expand_as(tokens), tokens)

"""The draw of random masks. Their application to tokens and voxels is the networks' (`networks/tokens.py`)."""

from __future__ import annotations

import torch


def draw_masks(
    batch_size: int, views: int, num_tokens: int, mask_ratio: float, generator: torch.Generator
) -> torch.Tensor:
    """Independent random masks, each with the same number of masked tokens, as in He et al. 2022 (MAE).

    Returns:
        [batch_size, views, num_tokens] bool on the generator's device, True where a token is masked. At least one token
        is masked and at least one stays visible.
    """
    if num_tokens < 2:
        raise ValueError(
            f"masking needs at least 2 tokens, got {num_tokens}: the patch is too small for its token size"
        )
    num_masked = min(max(round(mask_ratio * num_tokens), 1), num_tokens - 1)
    noise = torch.rand(batch_size, views, num_tokens, generator=generator, device=generator.device)
    ranks = noise.argsort(dim=-1).argsort(dim=-1)
    return ranks < num_masked

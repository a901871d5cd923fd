"""Size and habits of the ViT. Geometry comes from the plan, the partner's size from `networks/partners/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ViTConfig:
    """All that a ViT is built and trained with, but for its tokens.

    To try another value, `dataclasses.replace` one of `PRESETS`; a knob does the same (`planning/blueprint.py`).

    Attributes:
        embed_dim, depth, num_heads: of the encoder.
        decoder_dim, decoder_depth, decoder_num_heads: of the MAE decoder, which pre-training alone has.
        pretrain_lr, finetune_lr: peak learning rates (AdamW); narrow networks want higher ones.
        views: masks a crop that it is pre-trained under: the more, the better it learns, as long as the ViT is the
            smaller part of a step.
        steps: of the optimiser in one of its partner's, each on crops of its own.
        drop_path: stochastic depth of the encoder's last block; it rises linearly from 0 at the first.
    """

    embed_dim: int
    depth: int
    num_heads: int
    decoder_dim: int
    decoder_depth: int
    decoder_num_heads: int
    pretrain_lr: float
    finetune_lr: float
    views: int
    steps: int
    drop_path: float = 0.0


PRESETS: Mapping[str, ViTConfig] = {
    # For a CPU: 40×56×40 voxels, batch 2, one core take about 0.4 s a step of both networks.
    "tiny": ViTConfig(
        embed_dim=96,
        depth=4,
        num_heads=3,
        decoder_dim=96,
        decoder_depth=2,
        decoder_num_heads=3,
        pretrain_lr=1.5e-3,
        finetune_lr=3e-4,
        views=8,
        steps=8,
    ),
    # ViT-S
    "small": ViTConfig(
        embed_dim=384,
        depth=12,
        num_heads=6,
        decoder_dim=192,
        decoder_depth=4,
        decoder_num_heads=6,
        pretrain_lr=3e-4,
        finetune_lr=1e-4,
        views=4,
        steps=1,
    ),
    # ViT-B with the decoder of He et al. 2022 (MAE)
    "base": ViTConfig(
        embed_dim=768,
        depth=12,
        num_heads=12,
        decoder_dim=512,
        decoder_depth=8,
        decoder_num_heads=16,
        pretrain_lr=9.9e-5,
        finetune_lr=3e-5,
        views=2,
        steps=1,
    ),
}

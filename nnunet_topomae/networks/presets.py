"""Widths and depths of the networks. Geometry comes from the plan, size from here."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

PLAN_PRETRAIN_LR, PLAN_FINETUNE_LR = 1e-3, 3e-3  # of nnU-Net's own network


@dataclass(frozen=True)
class Rates:
    """Peak learning rates (AdamW).

    Attributes:
        pretrain, finetune: of the partner and of new layers.
        vit_pretrain_factor, vit_finetune_factor: the ViT's, as a factor on these.
    """

    pretrain: float
    finetune: float
    vit_pretrain_factor: float
    vit_finetune_factor: float


@dataclass(frozen=True)
class Preset:
    """Sizes of the ViT encoder, of the MAE decoder and of UNETR++. The plan's own network has the plan's.

    Attributes:
        vit_embed_dim, vit_depth, vit_num_heads: the ViT encoder.
        mae_embed_dim, mae_depth, mae_num_heads: the MAE decoder, only used in pre-training.
        features_per_stage: channels of UNETR++'s four stages, finest first.
        n_blocks_per_stage: EPA blocks in each stage, of the encoder and of the decoder.
        epa_num_heads: attention heads of every EPA block.
        projection_sizes: tokens that keys and values are projected to, per stage of the encoder; the decoder uses the
            first throughout.
        dropout: of UNETR++'s blocks.
        rates: learning rates beside UNETR++; narrow networks want higher ones.
        vit_views: masks a crop that the ViT is pre-trained under: the more, the better it learns, as long as the ViT is
            the smaller part of a step.
        vit_steps: optimiser steps of the ViT in one of its partner's, each on crops of its own.
    """

    vit_embed_dim: int
    vit_depth: int
    vit_num_heads: int
    mae_embed_dim: int
    mae_depth: int
    mae_num_heads: int
    features_per_stage: tuple[int, int, int, int]
    n_blocks_per_stage: int
    epa_num_heads: int
    projection_sizes: tuple[int, int, int, int]
    dropout: float
    rates: Rates
    vit_views: int
    vit_steps: int

    def rates_beside(self, partner: str) -> Rates:
        """The ViT learns as fast beside the plan's network, which is as wide in every preset."""
        if partner == "unetrpp":
            return self.rates
        return Rates(
            PLAN_PRETRAIN_LR,
            PLAN_FINETUNE_LR,
            self.rates.vit_pretrain_factor * self.rates.pretrain / PLAN_PRETRAIN_LR,
            self.rates.vit_finetune_factor * self.rates.finetune / PLAN_FINETUNE_LR,
        )


PRESETS = MappingProxyType(
    {
        # For a CPU: 40×56×40 voxels, batch 2, one core take about 0.4 s a step of both networks.
        "tiny": Preset(
            96, 4, 3, 96, 2, 3, (8, 16, 32, 64), 1, 2, (32, 32, 32, 16), 0.0, Rates(1e-3, 6e-3, 1.5, 0.05), 8, 8
        ),
        # ViT-S beside UNETR++ with a third of the published blocks.
        "small": Preset(
            384, 12, 6, 192, 4, 6, (32, 64, 128, 256), 1, 4, (64, 64, 64, 32), 0.1, Rates(1e-3, 2e-3, 0.3, 0.05), 4, 1
        ),
        # ViT-B with the decoder of He et al. 2022 (MAE) beside UNETR++ as published.
        "base": Preset(
            768, 12, 12, 512, 8, 16, (32, 64, 128, 256), 3, 4, (64, 64, 64, 32), 0.1, Rates(3e-4, 3e-4, 0.33, 0.1), 2, 1
        ),
    }
)

"""How the ViT's features meet UNETR++'s in fine-tuning.

Every fusion maps (UNETR++'s features [full resolution, stage 1, ..., stage 4], the ViT's features on the token grid
[B, C, D, H, W]) to features of the same shapes for UNETR++'s decoder. Each starts as the identity on UNETR++'s
features, so that fine-tuning sets out from the pre-trained UNETR++ and lets the ViT in as far as it helps.

For ablations there are two that leave one encoder out: `reads_vit`, `reads_unetrpp` say which features a fusion wants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import nn

from nnunet_topomae.networks.geometry import Geometry

INITIAL_STD = 0.1  # of what a projection gives, for features of variance 1; as small beside UNETR++'s


class Fusion(nn.Module):
    """Base of the fusions."""

    reads_vit = True
    reads_unetrpp = True  # if False, it is given the features at full resolution alone


class ResidualFusion(Fusion):
    """The ViT's features, projected and resampled to the grids of some stages, added to them.

    The projections start small, not at zero: the gradient of the ViT passes through them, and AdamW, which rescales
    every gradient, would make random steps of one that is nearly zero.
    """

    stages: tuple[int, ...] = ()

    def __init__(self, vit_dim: int, features_per_stage: Sequence[int], geometry: Geometry, num_heads: int) -> None:
        super().__init__()
        self.grids = [geometry.stage_grids[stage] for stage in self.stages]
        self.projections = nn.ModuleList(nn.Conv3d(vit_dim, features_per_stage[stage], 1) for stage in self.stages)
        for projection in self.projections:
            nn.init.normal_(projection.weight, std=INITIAL_STD / math.sqrt(vit_dim))
            nn.init.zeros_(projection.bias)

    def forward(self, features: Sequence[torch.Tensor], vit_features: torch.Tensor) -> list[torch.Tensor]:
        fused = list(features)
        for stage, grid, projection in zip(self.stages, self.grids, self.projections, strict=True):
            fused[stage + 1] = features[stage + 1] + _resample(projection(vit_features), grid)
        return fused


class BottleneckFusion(ResidualFusion):
    """At stage 4."""

    stages = (3,)


class TokenGridFusion(ResidualFusion):
    """At stage 3, which shares the token grid."""

    stages = (2,)


class StagesFusion(ResidualFusion):
    """At every stage."""

    stages = (0, 1, 2, 3)


class ViTOnly(Fusion):
    """Ablation: the ViT's features, projected and resampled, in the place of UNETR++'s four stages."""

    reads_unetrpp = False

    def __init__(self, vit_dim: int, features_per_stage: Sequence[int], geometry: Geometry, num_heads: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv3d(vit_dim, dim, 1) for dim in features_per_stage)
        self.grids = geometry.stage_grids

    def forward(self, features: Sequence[torch.Tensor], vit_features: torch.Tensor) -> list[torch.Tensor]:
        return [features[0], *self.on_stages(vit_features)]

    def on_stages(self, vit_features: torch.Tensor) -> Iterator[torch.Tensor]:
        """The ViT's features with the channels and on the grid of each stage."""
        for projection, grid in zip(self.projections, self.grids, strict=True):
            yield _resample(projection(vit_features), grid)


class CrossAttentionFusion(Fusion):
    """Stage 3, which shares the token grid, queries the ViT's tokens; the answer is added with a scale per channel."""

    def __init__(self, vit_dim: int, features_per_stage: Sequence[int], geometry: Geometry, num_heads: int) -> None:
        super().__init__()
        dim = features_per_stage[2]
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(vit_dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), INITIAL_STD))

    def forward(self, features: Sequence[torch.Tensor], vit_features: torch.Tensor) -> list[torch.Tensor]:
        stage = features[3]
        tokens = stage.flatten(2).transpose(1, 2)  # [B, N, C]
        query = self._split_heads(self.query(self.norm(tokens)))
        key, value = self.key_value(vit_features.flatten(2).transpose(1, 2)).chunk(2, dim=-1)
        answer = F.scaled_dot_product_attention(query, self._split_heads(key), self._split_heads(value))
        tokens = tokens + self.scale * self.out(answer.transpose(1, 2).flatten(2))
        return [*features[:3], tokens.transpose(1, 2).reshape(stage.shape), features[4]]

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, d]


class UNETRPPOnly(Fusion):
    """Ablation: UNETR++ without the ViT."""

    reads_vit = False

    def __init__(self, vit_dim: int, features_per_stage: Sequence[int], geometry: Geometry, num_heads: int) -> None:
        super().__init__()

    def forward(self, features: Sequence[torch.Tensor], vit_features: None) -> list[torch.Tensor]:
        return list(features)


FUSIONS = MappingProxyType(
    {
        "stages": StagesFusion,
        "bottleneck": BottleneckFusion,
        "token_grid": TokenGridFusion,
        "cross_attention": CrossAttentionFusion,
        "unetrpp_only": UNETRPPOnly,
        "vit_only": ViTOnly,
    }
)


def _resample(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Trilinear to a finer grid, average over cells to a coarser one."""
    if any(new < old for new, old in zip(size, x.shape[2:], strict=True)):
        return F.adaptive_avg_pool3d(x, tuple(size))
    return F.interpolate(x, size=tuple(size), mode="trilinear")

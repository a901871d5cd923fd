"""How the ViT's features meet its partner's in fine-tuning.

Every fusion maps (the partner's features, finest first, the ViT's features on the token grid [B, C, D, H, W]) to
features of the same shapes for the partner's decoder. Each starts close to the identity on the partner's features, so
that fine-tuning sets out from the pre-trained partner and lets the ViT in as far as it helps.

For ablations there are two that leave one encoder out: `reads_vit`, `reads_partner` say which features a fusion wants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import nn

from nnunet_topomae.networks.geometry import Size3D, triple

INITIAL_STD = 0.1  # of what a projection gives, for features of variance 1; as small beside the partner's


@dataclass(frozen=True)
class FusionShapes:
    """What a fusion is built for.

    Attributes:
        vit_dim: C of the ViT's features.
        token_grid: where they lie.
        channels, grids: of the partner's features, finest first; the first are at full resolution.
        num_heads: of attention between both.
    """

    vit_dim: int
    token_grid: Size3D
    channels: Sequence[int]
    grids: Sequence[Size3D]
    num_heads: int

    @property
    def bottleneck(self) -> int:
        return len(self.channels) - 1

    @property
    def token_stage(self) -> int:
        """The partner's feature map whose grid is the tokens', or the next to it in number of points."""
        return min(range(1, len(self.grids)), key=lambda stage: abs(math.log(self._points_a_token(stage))))

    def _points_a_token(self, stage: int) -> float:
        return math.prod(self.grids[stage]) / math.prod(self.token_grid)


class Fusion(nn.Module):
    """Base of the fusions."""

    reads_vit = True
    reads_partner = True  # if False, it is given the features at full resolution alone


class ResidualFusion(Fusion):
    """The ViT's features, projected and resampled to the grids of some of the partner's, added to them.

    The projections start small, not at zero: the gradient of the ViT passes through them, and AdamW, which rescales
    every gradient, would make random steps of one that is nearly zero.
    """

    def __init__(self, shapes: FusionShapes) -> None:
        super().__init__()
        self.stages = self.stages_of(shapes)
        self.grids = [shapes.grids[stage] for stage in self.stages]
        projections = [nn.Conv3d(shapes.vit_dim, shapes.channels[stage], 1) for stage in self.stages]
        for projection in projections:
            nn.init.normal_(projection.weight, std=INITIAL_STD / math.sqrt(shapes.vit_dim))
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        self.projections = nn.ModuleList(projections)

    @staticmethod
    def stages_of(shapes: FusionShapes) -> Sequence[int]:
        """Which of the partner's features."""
        raise NotImplementedError

    def forward(self, features: Sequence[torch.Tensor], vit_features: torch.Tensor) -> list[torch.Tensor]:
        fused = list(features)
        for stage, grid, projection in zip(self.stages, self.grids, self.projections, strict=True):
            fused[stage] = features[stage] + _resample(projection(vit_features), grid)
        return fused


class BottleneckFusion(ResidualFusion):
    """At the bottleneck."""

    @staticmethod
    def stages_of(shapes: FusionShapes) -> Sequence[int]:
        return [shapes.bottleneck]


class TokenGridFusion(ResidualFusion):
    """Where the partner's features lie on the token grid."""

    @staticmethod
    def stages_of(shapes: FusionShapes) -> Sequence[int]:
        return [shapes.token_stage]


class StagesFusion(ResidualFusion):
    """At every stage below full resolution."""

    @staticmethod
    def stages_of(shapes: FusionShapes) -> Sequence[int]:
        return range(1, len(shapes.channels))


class ViTOnly(Fusion):
    """Ablation: the ViT's features, projected and resampled, in the place of the partner's below full resolution."""

    reads_partner = False

    def __init__(self, shapes: FusionShapes) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv3d(shapes.vit_dim, dim, 1) for dim in shapes.channels[1:])
        self.grids = shapes.grids[1:]

    def forward(self, features: Sequence[torch.Tensor], vit_features: torch.Tensor) -> list[torch.Tensor]:
        return [features[0], *self.on_stages(vit_features)]

    def on_stages(self, vit_features: torch.Tensor) -> Iterator[torch.Tensor]:
        """The ViT's features with the channels and on the grid of each of the partner's."""
        for projection, grid in zip(self.projections, self.grids, strict=True):
            yield _resample(projection(vit_features), grid)


class CrossAttentionFusion(Fusion):
    """The partner's features on the token grid query the ViT's; the answer is added with a scale per channel."""

    def __init__(self, shapes: FusionShapes) -> None:
        super().__init__()
        self.stage = shapes.token_stage
        dim = shapes.channels[self.stage]
        self.num_heads = shapes.num_heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(shapes.vit_dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), INITIAL_STD))

    def forward(self, features: Sequence[torch.Tensor], vit_features: torch.Tensor) -> list[torch.Tensor]:
        fused = list(features)
        stage = features[self.stage]
        tokens = stage.flatten(2).transpose(1, 2)  # [B, N, C]
        query = self._split_heads(self.query(self.norm(tokens)))
        key, value = self.key_value(vit_features.flatten(2).transpose(1, 2)).chunk(2, dim=-1)
        answer = F.scaled_dot_product_attention(query, self._split_heads(key), self._split_heads(value))
        tokens = tokens + self.scale * self.out(answer.transpose(1, 2).flatten(2))
        fused[self.stage] = tokens.transpose(1, 2).reshape(stage.shape)
        return fused

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, N, d]


class PartnerOnly(Fusion):
    """The partner without the ViT."""

    reads_vit = False

    def __init__(self, shapes: FusionShapes) -> None:
        super().__init__()

    def forward(self, features: Sequence[torch.Tensor], vit_features: None) -> list[torch.Tensor]:
        return list(features)


FUSIONS = MappingProxyType(
    {
        "stages": StagesFusion,
        "bottleneck": BottleneckFusion,
        "token_grid": TokenGridFusion,
        "cross_attention": CrossAttentionFusion,
        "partner_only": PartnerOnly,
        "vit_only": ViTOnly,
    }
)


def _resample(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Trilinear to a finer grid, average over cells to a coarser one."""
    if any(new < old for new, old in zip(size, x.shape[2:], strict=True)):
        return F.adaptive_avg_pool3d(x, triple(size))
    return F.interpolate(x, size=tuple(size), mode="trilinear")

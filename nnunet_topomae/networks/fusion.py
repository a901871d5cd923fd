"""How the ViT's features meet its partner's in fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from nnunet_topomae.networks.geometry import Size3D

INITIAL_STD = 0.1  # of what a projection gives, for features of variance 1; as small beside the partner's


class StageFusion(nn.Module):
    """The ViT's features, projected and resampled to each of the partner's grids below full resolution, added there.

    The projections start small, so that fine-tuning sets out from the pre-trained partner, but not at zero: the
    gradient of the ViT passes through them, and AdamW, which rescales every gradient, would make random steps of one
    that is nearly zero.

    Args:
        vit_dim: channels of the ViT's features.
        channels, grids: of the partner's features, finest first; the first are at full resolution.
    """

    def __init__(self, vit_dim: int, channels: Sequence[int], grids: Sequence[Size3D]) -> None:
        super().__init__()
        self.grids = grids[1:]
        projections = [nn.Conv3d(vit_dim, dim, 1) for dim in channels[1:]]
        for projection in projections:
            nn.init.normal_(projection.weight, std=INITIAL_STD / math.sqrt(vit_dim))
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        self.projections = nn.ModuleList(projections)

    def forward(self, features: Sequence[torch.Tensor], vit_features: torch.Tensor) -> list[torch.Tensor]:
        """The partner's features, finest first, and the ViT's [B, C, D, H, W] on the token grid, to the former."""
        full_resolution, *stages = features
        return [
            full_resolution,
            *(
                stage + _resample(projection(vit_features), grid)
                for stage, projection, grid in zip(stages, self.projections, self.grids, strict=True)
            ),
        ]


# By the names of the knob `fusion`; None leaves the ViT out.
FUSIONS: Mapping[str, type[StageFusion] | None] = {"stages": StageFusion, "partner_only": None}


def _resample(x: torch.Tensor, grid: Size3D) -> torch.Tensor:
    """Trilinear to a finer grid, average over cells to a coarser one."""
    if any(new < old for new, old in zip(grid, x.shape[2:], strict=True)):
        return F.adaptive_avg_pool3d(x, grid)
    return F.interpolate(x, size=grid, mode="trilinear")

"""Weights of pre-training for images whose axes come in another order.

nnU-Net's plans order an image's axes by spacing (`transpose_forward`): two data sets of the same anatomy may show it to
a network in two orders. Weights are reordered with the axes, so that what was learnt of an axis stays with that axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from nnunet_topomae.networks.copretrain import VIT_ENCODER
from nnunet_topomae.networks.vit import num_position_bands

# Parameters of the ViT encoder that write to, or read from, the channels in which positions are encoded, and the axis
# along which they do.
POSITION_CHANNELS = {
    "token_embedding.weight": 0,
    "token_embedding.bias": 0,
    "norm1.weight": 0,
    "norm1.bias": 0,
    "attn.qkv.weight": 1,
    "attn.proj.weight": 0,
    "attn.proj.bias": 0,
    "norm2.weight": 0,
    "norm2.bias": 0,
    "mlp.fc1.weight": 1,
    "mlp.fc2.weight": 0,
    "mlp.fc2.bias": 0,
    "norm.weight": 0,
    "norm.bias": 0,
}

FUSED_VIT = "fusion.projections."
IN_ORDER = ("vit.decoder.", "vit.position_head.", "partner.position_head.")


def axes_order(before: Sequence[int], now: Sequence[int]) -> tuple[int, ...]:
    """For each axis now, which axis it was before; both orders are `transpose_forward` of nnU-Net's plans."""
    return tuple(list(before).index(axis) for axis in now)


def reorder_axes(weights: Mapping[str, torch.Tensor], axes: Sequence[int]) -> dict[str, torch.Tensor]:
    """Weights of a `CoPretrainingNetwork` whose encoders answer to `image.permute(axes)` as `weights` do to `image`.

    Whatever has a grid or a kernel is permuted. The ViT's fixed embedding gives each axis channels of its own, which
    cannot move: the weights that meet them are permuted over channels, and so are the features that come out, and what
    a fusion makes of them. Heads that write voxels or points of a token in the order of the axes are left out.

    Args:
        weights: state dict of pre-training.
        axes: for each axis of the new order, which one it was.
    """
    if tuple(axes) == (0, 1, 2):
        return dict(weights)
    return {name: _reordered(name, weight, axes) for name, weight in weights.items() if not name.startswith(IN_ORDER)}


def _reordered(name: str, weight: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    if weight.ndim >= 4:
        leading = weight.ndim - 3
        weight = weight.permute(*range(leading), *(leading + axis for axis in axes))
    for suffix, along in POSITION_CHANNELS.items():
        if name.startswith(VIT_ENCODER) and name.endswith(f".{suffix}"):
            return weight.index_select(along, channel_order(weight.shape[along], axes))
    if name.startswith(FUSED_VIT) and name.endswith(".weight"):
        return weight.index_select(1, channel_order(weight.shape[1], axes))
    return weight


def channel_order(embed_dim: int, axes: Sequence[int]) -> torch.Tensor:
    """Indices [embed_dim] that give each axis's share of the position embedding's channels to its place in `axes`."""
    share = 2 * num_position_bands(embed_dim)
    channels = torch.arange(embed_dim)
    return torch.cat([*(channels[axis * share : (axis + 1) * share] for axis in axes), channels[3 * share :]])

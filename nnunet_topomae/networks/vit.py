"""A 3D vision transformer and the masked autoencoder around it (He et al. 2022, arXiv 2111.06377)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.presets import ViTConfig
from nnunet_topomae.networks.tokens import gather_tokens, patchify, scatter_tokens
from nnunet_topomae.networks.transformer import Block


def sincos_position_embedding(token_grid: Sequence[int], embed_dim: int, temperature: float = 10000.0) -> torch.Tensor:
    """Fixed embedding [N, embed_dim] of token positions, counted in tokens from the patch's first corner.

    Each axis gets the same even share of the channels, sines then cosines, as in Vaswani et al. 2017; channels that
    do not divide by six stay zero. The mean over the tokens is taken out and the rest scaled to a standard deviation of
    1, that of the token embedding: on the grids of medical patches, 4 to 12 tokens an axis, most of the waves hardly
    move, and a transformer that is given them as they are does not learn where its tokens lie (docs/experiments.md).
    """
    num_bands = num_position_bands(embed_dim)
    bands = temperature ** (-torch.arange(num_bands, dtype=torch.float32) / num_bands)
    positions = torch.cartesian_prod(*(torch.arange(edge, dtype=torch.float32) for edge in token_grid))  # [N, 3]
    angles = positions.unsqueeze(-1) * bands  # [N, 3, bands]
    embedding = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    embedding = embedding - embedding.mean(dim=0)
    return F.pad(embedding / embedding.std(), (0, embed_dim - embedding.shape[1]))


def num_position_bands(embed_dim: int) -> int:
    """Frequencies for each axis in `sincos_position_embedding`."""
    return embed_dim // 6


class TokenEmbedding(nn.Module):
    """One linear map of each token's voxels. Its weight has the shape of the convolution that it equals."""

    def __init__(self, input_channels: int, token_size: Sequence[int], embed_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(embed_dim, input_channels, *token_size))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        nn.init.xavier_uniform_(self.weight.flatten(1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, N, C·d·h·w] to [B, N, embed_dim]."""
        return F.linear(tokens, self.weight.flatten(1), self.bias)


class ViTEncoder(nn.Module):
    """ViT encoder over all tokens of a patch, or over the visible ones alone.

    Args:
        input_channels: C of the image.
        patch_size: voxels; must be divisible by token_size.
        token_size: voxels of a token.
        embed_dim, depth, num_heads: of the transformer.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
    """

    position_embedding: torch.Tensor

    def __init__(
        self,
        input_channels: int,
        patch_size: Sequence[int],
        token_size: Sequence[int],
        embed_dim: int,
        depth: int,
        num_heads: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.token_size = tuple(token_size)
        self.token_grid = tuple(edge // step for edge, step in zip(patch_size, token_size, strict=True))
        self.embed_dim = embed_dim
        self.token_embedding = TokenEmbedding(input_channels, token_size, embed_dim)
        self.register_buffer(
            "position_embedding", sincos_position_embedding(self.token_grid, embed_dim), persistent=False
        )
        drop_rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, rate) for rate in drop_rates)
        self.norm = nn.LayerNorm(embed_dim)
        self.blocks.apply(init_transformer_weights)

    @classmethod
    def of(cls, input_channels: int, geometry: Geometry, config: ViTConfig) -> ViTEncoder:
        """The encoder that a preset, or what knobs have made of it, asks for."""
        return cls(**cls.arguments(input_channels, geometry, config), drop_path=config.drop_path)

    @staticmethod
    def arguments(input_channels: int, geometry: Geometry, config: ViTConfig) -> dict[str, Any]:
        """Arguments of the class that its weights depend on."""
        return {
            "input_channels": input_channels,
            "patch_size": geometry.patch_size,
            "token_size": geometry.token_size,
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
        }

    def forward(self, image: torch.Tensor, ids_keep: torch.Tensor | None = None) -> torch.Tensor:
        """Features [B·V, M, embed_dim] of the tokens `ids_keep` [B·V, M] of images [B, C, D, H, W], V rows for each.

        By default of all tokens: [B, N, embed_dim].
        """
        require_patch_size(image, self.patch_size)
        tokens, positions = patchify(image, self.token_size), self.position_embedding
        if ids_keep is not None:
            views = ids_keep.unflatten(0, (len(image), -1))
            tokens, positions = gather_tokens(tokens[:, None], views).flatten(0, 1), gather_tokens(positions, ids_keep)
        x = self.token_embedding(tokens) + positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MAEDecoder(nn.Module):
    """Lightweight transformer from the features of visible tokens to the voxels of hidden ones."""

    position_embedding: torch.Tensor

    def __init__(self, output_channels: int, geometry: Geometry, config: ViTConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.embed = nn.Linear(config.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.register_buffer(
            "position_embedding", sincos_position_embedding(geometry.token_grid, dim), persistent=False
        )
        self.blocks = nn.ModuleList(Block(dim, config.decoder_num_heads) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(dim)
        self.predict = nn.Linear(dim, output_channels * math.prod(geometry.token_size))
        self.apply(init_transformer_weights)

    def forward(self, features: torch.Tensor, ids_keep: torch.Tensor, ids_hidden: torch.Tensor) -> torch.Tensor:
        """Features [B, M, embed_dim] of the tokens `ids_keep` [B, M] to the tokens `ids_hidden` [B, K] themselves,
        [B, K, C·d·h·w]."""
        visible = self.embed(features)
        masked = self.mask_token.to(visible.dtype).expand(len(visible), len(self.position_embedding), -1)
        x = scatter_tokens(visible, ids_keep, masked) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        return self.predict(self.norm(gather_tokens(x, ids_hidden)))


def init_transformer_weights(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero bias, as in MAE."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def require_patch_size(image: torch.Tensor, patch_size: tuple[int, ...]) -> None:
    if tuple(image.shape[2:]) != patch_size:
        raise ValueError(f"the network was built for patches of {patch_size} voxels, got {tuple(image.shape[2:])}")

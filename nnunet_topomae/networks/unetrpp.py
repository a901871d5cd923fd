"""UNETR++ (Shaker et al., IEEE TMI 2024, arXiv 2212.04497) for any patch size and strides.

The defaults are the network published for Synapse. Two details differ from the authors' code: the output of spatial
attention keeps each token's channels together (theirs permutes it so that tokens and channels mix before the
reshape), and parameters that belong to grid points have the shape of the grid, so that they can be resampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from nnunet_topomae.networks.geometry import Size3D, cumulative, grid, triple
from nnunet_topomae.networks.partners.partner import PartnerNetwork
from nnunet_topomae.networks.vit import require_patch_size

NORMALISE_EPS = 1e-4  # far below the norm of any real query; bounds the gradient at a zero vector


class TokenProjection(nn.Module):
    """Linear map from the N points of a grid to a few tokens (E and F in the paper, after Linformer)."""

    def __init__(self, grid: Size3D, projection_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(projection_size, *grid))
        self.bias = nn.Parameter(torch.zeros(projection_size))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., N, d] to [..., projection_size, d]."""
        # As a product with [..., d, N], which sums the weight's gradient over the batch without a copy a head.
        projected = F.linear(x.transpose(-2, -1), self.weight.flatten(1), self.bias)
        return projected.transpose(-2, -1).contiguous()


class EfficientPairedAttention(nn.Module):
    """Efficient paired attention, EPA (section 3.2 of the paper).

    Per head, with shared q, k [N, d] normalised over the N tokens, values v_c, v_s [N, d], learned temperatures T:

        channel: v_c · softmax(T_c · qᵀ k)ᵀ             d×d weights
        spatial: softmax(T_s · q E(k̄)ᵀ) · F(v_s)        N×P weights; k̄ is k before normalisation, E and F map N to P

    "concat" maps each branch to half the channels and concatenates them (Synapse, ACDC, Lung); "sum" adds the branches
    as they are (the authors' BraTS variant).
    """

    def __init__(
        self,
        dim: int,
        grid: Size3D,
        projection_size: int,
        num_heads: int = 4,
        shared_projection: bool = True,
        branch_fusion: Literal["concat", "sum"] = "concat",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim % num_heads or dim % 2:
            raise ValueError(f"{dim} channels do not divide into {num_heads} attention heads and two branches")
        self.num_heads = num_heads
        self.qkvv = nn.Linear(dim, 4 * dim, bias=False)
        self.key_projection = TokenProjection(grid, projection_size)
        self.value_projection = None if shared_projection else TokenProjection(grid, projection_size)
        self.temperature_channel = nn.Parameter(torch.ones(num_heads))
        self.temperature_spatial = nn.Parameter(torch.ones(num_heads))
        self.dropout = dropout
        self.out_spatial = nn.Linear(dim, dim // 2) if branch_fusion == "concat" else None
        self.out_channel = nn.Linear(dim, dim // 2) if branch_fusion == "concat" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, C] to [B, N, C]."""
        batch, num_tokens, dim = x.shape
        qkvv = self.qkvv(x).reshape(batch, num_tokens, 4, self.num_heads, dim // self.num_heads)
        q, k, v_channel, v_spatial = qkvv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, d]
        k_projected = self.key_projection(k)  # [B, heads, P, d]
        v_projected = (self.value_projection or self.key_projection)(v_spatial)
        dropout = self.dropout if self.training else 0.0

        # Norms and softmax stay in float32: over thousands of tokens half precision under- and overflows.
        with torch.autocast(x.device.type, enabled=False):
            q, k = F.normalize(q.float(), dim=-2, eps=NORMALISE_EPS), F.normalize(k.float(), dim=-2, eps=NORMALISE_EPS)
            weights = (self.temperature_channel.reshape(-1, 1, 1) * (q.transpose(-2, -1) @ k)).softmax(
                dim=-1
            )  # [B, heads, d, d]
            q = (self.temperature_spatial.reshape(-1, 1, 1) * q).to(v_spatial.dtype)
        channel = v_channel @ F.dropout(weights, dropout).to(v_channel.dtype).transpose(-2, -1)
        # The fused kernels accumulate in float32 and store no N×P matrix.
        spatial = F.scaled_dot_product_attention(q, k_projected, v_projected, dropout_p=dropout, scale=1.0)

        channel, spatial = (branch.transpose(1, 2).reshape(batch, num_tokens, dim) for branch in (channel, spatial))
        if self.out_spatial is None or self.out_channel is None:
            return channel + spatial
        return torch.cat((self.out_spatial(spatial), self.out_channel(channel)), dim=-1)


class ResidualConvBlock(nn.Module):
    """conv3 – norm – LeakyReLU – conv3 – norm, plus the input (or its 1×1×1 conv – norm, `project`), LeakyReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: type[nn.Module], project: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = norm(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = norm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = nn.Sequential(nn.Conv3d(in_channels, out_channels, 1, bias=False), norm(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)))
        return F.leaky_relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class EPABlock(nn.Module):
    """Position embedding, EPA (whose options are `attention`) scaled by γ, then convolutions; both with a residual."""

    def __init__(
        self,
        dim: int,
        grid: Size3D,
        projection_size: int,
        n_conv_blocks: int = 1,
        dropout: float = 0.1,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.position_embedding = nn.Parameter(torch.zeros(dim, *grid))
        self.norm = nn.LayerNorm(dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))
        self.attention = EfficientPairedAttention(dim, grid, projection_size, dropout=dropout, **attention)
        self.convs = nn.Sequential(*(ResidualConvBlock(dim, dim, nn.BatchNorm3d) for _ in range(n_conv_blocks)))
        self.out = nn.Sequential(nn.Dropout3d(dropout), nn.Conv3d(dim, dim, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.position_embedding
        tokens = x.flatten(2).transpose(1, 2)  # [B, N, C]
        tokens = tokens + self.gamma * self.attention(self.norm(tokens))
        x = tokens.transpose(1, 2).reshape(x.shape)
        return x + self.out(self.convs(x))


class Downsampling(nn.Sequential):
    """Strided convolution, GroupNorm. Groups as published (one an input channel), where they divide the channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: Size3D) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel_size=stride, stride=stride, bias=False),
            nn.GroupNorm(math.gcd(in_channels, out_channels), out_channels),
        )


class UNETRPPEncoder(nn.Module):
    """Stem and four stages of EPA blocks, and a convolution block of the image at full resolution."""

    def __init__(
        self,
        input_channels: int,
        strides: Sequence[Size3D],
        grids: Sequence[Size3D],
        features_per_stage: Sequence[int],
        n_blocks_per_stage: Sequence[int],
        projection_sizes: Sequence[int],
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        self.image_block = ResidualConvBlock(
            input_channels, features_per_stage[0] // 2, nn.InstanceNorm3d, project=True
        )
        self.stem = Downsampling(input_channels, features_per_stage[0], strides[0])
        self.downsamplings = nn.ModuleList(
            Downsampling(features_per_stage[i], features_per_stage[i + 1], strides[i + 1]) for i in range(3)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(EPABlock(dim, grid, projection_size, **block_kwargs) for _ in range(n_blocks)))
            for dim, grid, projection_size, n_blocks in zip(
                features_per_stage, grids, projection_sizes, n_blocks_per_stage, strict=True
            )
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features at full resolution and of the four stages, finest first."""
        features = [self.image_block(x)]
        for downsampling, stage in zip([self.stem, *self.downsamplings], self.stages, strict=True):
            x = stage(downsampling(x))
            features.append(x)
        return features


class UpBlock(nn.Module):
    """Transposed convolution, sum with the skip, then a stage."""

    def __init__(self, in_channels: int, out_channels: int, stride: Size3D, stage: nn.Module) -> None:
        super().__init__()
        self.upsampling = nn.ConvTranspose3d(in_channels, out_channels, kernel_size=stride, stride=stride, bias=False)
        self.stage = stage

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.stage(self.upsampling(x) + skip)


class UNETRPPDecoder(nn.Module):
    """Four up-blocks, and 1×1×1 convolutions to classes at the `n_outputs` finest resolutions.

    `deep_supervision` may be switched at any time: it decides whether all outputs are returned (finest first) or the
    finest alone. The parameters do not depend on it.
    """

    def __init__(
        self,
        num_classes: int,
        strides: Sequence[Size3D],
        grids: Sequence[Size3D],
        features_per_stage: Sequence[int],
        n_blocks_per_stage: Sequence[int],
        projection_size: int,
        n_outputs: int,
        deep_supervision: bool,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        full_resolution = features_per_stage[0] // 2
        self.up_blocks = nn.ModuleList()  # coarsest first
        for i in (2, 1, 0):
            stage = nn.Sequential(
                *(
                    EPABlock(features_per_stage[i], grids[i], projection_size, **block_kwargs)
                    for _ in range(n_blocks_per_stage[i])
                )
            )
            self.up_blocks.append(UpBlock(features_per_stage[i + 1], features_per_stage[i], strides[i + 1], stage))
        self.up_blocks.append(
            UpBlock(
                features_per_stage[0],
                full_resolution,
                strides[0],
                ResidualConvBlock(full_resolution, full_resolution, nn.InstanceNorm3d),
            )
        )
        self.seg_layers = nn.ModuleList(
            nn.Conv3d(dim, num_classes, 1) for dim in [full_resolution, *features_per_stage][:n_outputs]
        )

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        """The encoder's features, finest first, to [B, K, D, H, W] or, under deep supervision, a list, finest first."""
        *skips, x = features
        outputs: list[torch.Tensor] = []
        for up_block, skip in zip(self.up_blocks, reversed(skips), strict=True):
            x = up_block(x, skip)
            outputs.insert(0, x)
        if not self.deep_supervision:
            return self.seg_layers[0](outputs[0])
        return [layer(x) for layer, x in zip(self.seg_layers, outputs, strict=False)]


class UNETRPP(PartnerNetwork):
    """UNETR++. The defaults are the network published for Synapse.

    Args:
        input_channels: C of the image.
        num_classes: K, background included.
        patch_size: voxels. The network takes this size alone.
        stem_stride: published: (2, 4, 4) Synapse, (1, 4, 4) ACDC and Lung, (4, 4, 4) BraTS.
        stage_strides: of the three downsamplings.
        features_per_stage: channels of the four stages; full resolution has half of the first.
        n_blocks_per_stage, n_blocks_per_stage_decoder: EPA blocks, finest stage first.
        num_heads: of every EPA block.
        projection_sizes: tokens that EPA projects keys and values to, finest stage first.
        projection_size_decoder: the same, in the decoder.
        n_conv_blocks: residual convolution blocks after each EPA (published: 2 on ACDC and Lung, else 1).
        shared_projection: one projection for keys and values (published: False on ACDC and Lung, else True).
        branch_fusion: of EPA's two branches (published: "sum" on BraTS, else "concat").
        dropout: of attention and after the convolutions.
        n_outputs: resolutions with a segmentation layer, finest first.
        deep_supervision: return all outputs; may be changed later through `decoder.deep_supervision`.

    Raises:
        ValueError: strides that do not divide the patch; channels that do not divide into heads.
    """

    key_to_encoder = "encoder"
    key_to_stem = "encoder.stem"
    keys_to_in_proj = ("encoder.stem.0", "encoder.image_block.conv1", "encoder.image_block.shortcut.0")
    deep_supervision_weights = (4 / 7, 2 / 7, 1 / 7)

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        stem_stride: Sequence[int],
        stage_strides: Sequence[Sequence[int]] = ((2, 2, 2),) * 3,
        features_per_stage: Sequence[int] = (32, 64, 128, 256),
        n_blocks_per_stage: Sequence[int] = (3, 3, 3, 3),
        n_blocks_per_stage_decoder: Sequence[int] = (3, 3, 3),
        num_heads: int = 4,
        projection_sizes: Sequence[int] = (64, 64, 64, 32),
        projection_size_decoder: int = 64,
        n_conv_blocks: int = 1,
        shared_projection: bool = True,
        branch_fusion: Literal["concat", "sum"] = "concat",
        dropout: float = 0.1,
        n_outputs: int = 3,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        self.patch_size = triple(patch_size)
        strides = [triple(stride) for stride in (stem_stride, *stage_strides)]
        grids = [grid(self.patch_size, stride) for stride in cumulative(strides)]
        self.feature_channels = (features_per_stage[0] // 2, *features_per_stage)
        self.feature_grids = (self.patch_size, *grids)
        self.deep_supervision_scales = [
            [1 / edge for edge in stride] for stride in [(1, 1, 1), *cumulative(strides)][:n_outputs]
        ]
        block_kwargs = {
            "num_heads": num_heads,
            "n_conv_blocks": n_conv_blocks,
            "shared_projection": shared_projection,
            "branch_fusion": branch_fusion,
            "dropout": dropout,
        }
        self.encoder = UNETRPPEncoder(
            input_channels, strides, grids, features_per_stage, n_blocks_per_stage, projection_sizes, **block_kwargs
        )
        self.decoder = UNETRPPDecoder(
            num_classes,
            strides,
            grids,
            features_per_stage,
            n_blocks_per_stage_decoder,
            projection_size_decoder,
            n_outputs,
            deep_supervision,
            **block_kwargs,
        )
        self.apply(_init_linear)
        self.apply(_channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """[B, C, D, H, W] to logits [B, K, D, H, W], or to a list of them, finest first, under deep supervision."""
        require_patch_size(x, self.patch_size)
        return self.decoder(self.encoder(x))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _channels_last(module: nn.Module) -> None:
    """EPA leaves channels last in memory; kernels in the same layout spare the convolutions a copy each way."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        module.weight = nn.Parameter(module.weight.detach().contiguous(memory_format=torch.channels_last_3d))

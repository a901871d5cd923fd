"""Co-training of a ViT-MAE and its partner: both see the same visible tokens and answer the same two questions.

The ViT, which costs a tenth of the pair, answers for several masks of a crop (views), its partner for the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch._compile import _disable_dynamo

from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.partners import Partner
from nnunet_topomae.networks.presets import ViTConfig
from nnunet_topomae.networks.pretrained import LoadReport, load_adapted
from nnunet_topomae.networks.tokens import (
    expand_mask,
    gather_tokens,
    patchify,
    scatter_tokens,
    unpatchify,
    visible_tokens,
)
from nnunet_topomae.networks.vit import MAEDecoder, ViTEncoder
from nnunet_topomae.pretext.position import NUM_POINTS

# What fine-tuning and export take of a pre-training, in the names of its weights.
VIT_ENCODER, PARTNER_ENCODER, PARTNER_DECODER = PARTS = ("vit.encoder.", "partner.encoder.", "partner.decoder.")


def is_pretraining(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether they are a `CoPretrainingNetwork`'s."""
    return all(any(name.startswith(part) for name in weights) for part in PARTS)


class BranchOutput(NamedTuple):
    """What one network answers for V masks of each crop (views): the K tokens that each hides [B, V, K, C·d·h·w], as
    `patchify` cuts them, and nine points [B, V, 9, 3] (axes as in the image)."""

    tokens: torch.Tensor
    points: torch.Tensor


class VolumeOutput(NamedTuple):
    """The same, as whole volumes: reconstruction [B, V, C, D, H, W] and nine points [B, V, 9, 3]."""

    reconstruction: torch.Tensor
    points: torch.Tensor


class CoPretrainingOutput(NamedTuple):
    """The answers of both networks."""

    vit: VolumeOutput
    partner: VolumeOutput


class PositionHead(nn.Sequential):
    """Features averaged over the crop [B, dim] to nine points [B, 9, 3]."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, NUM_POINTS * 3), nn.Unflatten(1, (NUM_POINTS, 3)))


class ViTBranch(nn.Module):
    """Masked autoencoder with a position head on the mean of the visible tokens' features."""

    def __init__(self, input_channels: int, geometry: Geometry, vit: ViTConfig) -> None:
        super().__init__()
        self.encoder = ViTEncoder.of(input_channels, geometry, vit)
        self.decoder = MAEDecoder(input_channels, geometry, vit)
        self.position_head = PositionHead(vit.embed_dim)

    def forward(self, image: torch.Tensor, visible: torch.Tensor, hidden: torch.Tensor) -> BranchOutput:
        """Of images [B, C, D, H, W] of whose tokens `visible` [B, V, M] are seen and `hidden` [B, V, K] asked for."""
        views, visible, hidden = visible.shape[1], visible.flatten(0, 1), hidden.flatten(0, 1)
        features = self.encoder(image, visible)
        tokens, points = self.decoder(features, visible, hidden), self.position_head(features.mean(dim=1))
        return BranchOutput(tokens.unflatten(0, (-1, views)), points.unflatten(0, (-1, views)))


class PartnerBranch(nn.Module):
    """The partner, which draws the image instead of classes, with a position head on its pooled bottleneck."""

    def __init__(self, input_channels: int, partner: Partner) -> None:
        super().__init__()
        network = partner.build(input_channels, input_channels, single_output=True)
        self.encoder = network.encoder
        self.decoder = network.decoder
        self.keys_to_in_proj = network.keys_to_in_proj
        self.position_head = PositionHead(network.feature_channels[-1])

    def forward(self, image: torch.Tensor) -> VolumeOutput:
        features = self.encoder(image)
        points = self.position_head(features[-1].mean(dim=(2, 3, 4)))
        return VolumeOutput(self.decoder(features)[:, None], points[:, None])


class CoPretrainingNetwork(nn.Module):
    """Both networks of pre-training.

    Args:
        input_channels: C of the image.
        geometry: of the tokens.
        vit: size of the ViT.
        partner: the network beside it.
    """

    def __init__(self, input_channels: int, geometry: Geometry, vit: ViTConfig, partner: Partner) -> None:
        super().__init__()
        self.geometry = geometry
        self.vit = ViTBranch(input_channels, geometry, vit)
        self.partner = PartnerBranch(input_channels, partner)
        self.keys_to_in_proj = (
            "vit.encoder.token_embedding",
            *(f"partner.{key}" for key in self.partner.keys_to_in_proj),
        )
        self.on_grid = dict(partner.on_grid)  # a proxy cannot be copied

    def forward(
        self, image: torch.Tensor, masks: torch.Tensor, branch: str | None = None
    ) -> CoPretrainingOutput | BranchOutput:
        """What is hidden and where the crop lies: by the ViT under each mask, by its partner under the first.

        Args:
            image: [B, C, D, H, W].
            masks: [B, V, N] bool over tokens, True where masked; as many in every mask. The ViT gets the visible tokens
                alone; for its partner masked voxels are zero, the mean of a z-scored image. They may lie on the CPU,
                whatever the network's device: tokens are counted on the host, which then waits for nothing.
            branch: the network to ask. By default both are asked, and the image is completed by what each says.

        Raises:
            ValueError: an image of another size; masks that hide different numbers of tokens, none, or all.
        """
        visible, hidden = token_ids(masks, image.device)
        if branch == "vit":
            return self.vit(image, visible, hidden)
        if branch == "partner":
            first = masks[:, 0].to(image.device, non_blocking=True)
            voxel_mask = expand_mask(first, self.geometry.token_grid, self.geometry.token_size)
            volumes, points = self.partner(image.masked_fill(voxel_mask, 0))
            tokens = gather_tokens(patchify(volumes[:, 0], self.geometry.token_size), hidden[:, 0])
            return BranchOutput(tokens[:, None], points)
        answers = (self(image, masks, name) for name in CoPretrainingOutput._fields)
        return CoPretrainingOutput(
            *(VolumeOutput(completed(image, tokens, hidden, self.geometry), points) for tokens, points in answers)
        )

    @property
    def pretrained_names(self) -> list[str]:
        """What `load_pretrained` looks for."""
        return list(self.state_dict())

    def load_pretrained(
        self, state_dict: Mapping[str, torch.Tensor], label_channels: int = 0, image_channels: int | None = None
    ) -> LoadReport:
        """As `HybridSegmentationNetwork.load_pretrained`, to go on learning: what the weights lack stays new."""
        strict = (VIT_ENCODER,) if any(name.startswith(VIT_ENCODER) for name in state_dict) else ()
        return load_adapted(self, state_dict, lambda name: name, strict, label_channels, image_channels)


@_disable_dynamo  # the number of tokens is read on the host; everything after has a static shape
def token_ids(masks: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """On `device`, the tokens that masks [..., N] leave visible and those that they hide (`visible_tokens`)."""
    visible, hidden = (visible_tokens(mask).to(device, non_blocking=True) for mask in (masks, ~masks))
    return visible, hidden


def completed(image: torch.Tensor, tokens: torch.Tensor, ids: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Images [B, C, D, H, W] with the tokens [B, V, K, C·d·h·w] of V views in the places `ids` [B, V or more, K]:
    [B, V, C, D, H, W]."""
    views = tokens.shape[1]
    known = patchify(image, geometry.token_size).repeat_interleave(views, dim=0)
    whole = scatter_tokens(tokens.flatten(0, 1).to(known.dtype), ids[:, :views].flatten(0, 1), known)
    volumes = unpatchify(whole, geometry.token_grid, geometry.token_size, image.shape[1])
    return volumes.unflatten(0, (-1, views))

"""Co-training of a ViT-MAE and its partner: both see the same visible tokens and answer the same two questions.

The ViT, which costs a tenth of the pair, answers for several masks of a crop (views), its partner for the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.partners import Partner
from nnunet_topomae.networks.presets import ViTConfig
from nnunet_topomae.networks.pretrained import LoadReport, load_adapted
from nnunet_topomae.networks.tokens import expand_mask, visible_tokens
from nnunet_topomae.networks.vit import MAEDecoder, ViTEncoder
from nnunet_topomae.pretext.position import NUM_POINTS

# What fine-tuning and export take of a pre-training, in the names of its weights.
VIT_ENCODER, PARTNER_ENCODER, PARTNER_DECODER = PARTS = ("vit.encoder.", "partner.encoder.", "partner.decoder.")


def is_pretraining(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether they are a `CoPretrainingNetwork`'s."""
    return all(any(name.startswith(part) for name in weights) for part in PARTS)


class BranchOutput(NamedTuple):
    """What one network answers for V masks of each crop (views): reconstruction [B, V, C, D, H, W] and nine points
    [B, V, 9, 3] (axes as in the image)."""

    reconstruction: torch.Tensor
    points: torch.Tensor

    @classmethod
    def of_rows(cls, reconstruction: torch.Tensor, points: torch.Tensor, views: int) -> BranchOutput:
        """From [B·V, ...], views of a crop one after the other."""
        return cls(reconstruction.unflatten(0, (-1, views)), points.unflatten(0, (-1, views)))


class CoPretrainingOutput(NamedTuple):
    """The answers of both networks."""

    vit: BranchOutput
    partner: BranchOutput


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

    def forward(self, image: torch.Tensor, ids_keep: torch.Tensor) -> BranchOutput:
        """Of an image [B, C, D, H, W] of whose tokens `ids_keep` [B, V, M] are visible."""
        views, ids_keep = ids_keep.shape[1], ids_keep.flatten(0, 1)
        features = self.encoder(image, ids_keep)
        return BranchOutput.of_rows(self.decoder(features, ids_keep), self.position_head(features.mean(dim=1)), views)


class PartnerBranch(nn.Module):
    """The partner, which draws the image instead of classes, with a position head on its pooled bottleneck."""

    def __init__(self, input_channels: int, partner: Partner) -> None:
        super().__init__()
        network = partner.build(input_channels, input_channels, single_output=True)
        self.encoder = network.encoder
        self.decoder = network.decoder
        self.keys_to_in_proj = network.keys_to_in_proj
        self.position_head = PositionHead(network.feature_channels[-1])

    def forward(self, image: torch.Tensor) -> BranchOutput:
        features = self.encoder(image)
        points = self.position_head(features[-1].mean(dim=(2, 3, 4)))
        return BranchOutput.of_rows(self.decoder(features), points, views=1)


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
        self, image: torch.Tensor, masks: torch.Tensor, with_partner: bool = True
    ) -> CoPretrainingOutput | BranchOutput:
        """Reconstructions and points of both networks: of the ViT under each mask, of its partner under the first.

        Args:
            image: [B, C, D, H, W].
            masks: [B, V, N] bool over tokens, True where masked; as many in every mask. The ViT gets the visible tokens
                alone; for its partner masked voxels are zero, the mean of a z-scored image. They may lie on the CPU,
                whatever the network's device: tokens are counted on the host, which then waits for nothing.
            with_partner: if False, the answer of the ViT alone.

        Raises:
            ValueError: an image of another size; masks that hide different numbers of tokens, or all.
        """
        vit = self.vit(image, visible_tokens(masks).to(image.device, non_blocking=True))
        if not with_partner:
            return vit
        first = masks[:, 0].to(image.device, non_blocking=True)
        voxel_mask = expand_mask(first, self.geometry.token_grid, self.geometry.token_size)
        return CoPretrainingOutput(vit, self.partner(image.masked_fill(voxel_mask, 0)))

    @property
    def pretrained_names(self) -> list[str]:
        """What `load_pretrained` looks for."""
        return list(self.state_dict())

    def load_pretrained(self, state_dict: Mapping[str, torch.Tensor], label_channels: int = 0) -> LoadReport:
        """As `HybridSegmentationNetwork.load_pretrained`, to go on learning: what the weights lack stays new."""
        strict = (VIT_ENCODER,) if any(name.startswith(VIT_ENCODER) for name in state_dict) else ()
        return load_adapted(self, state_dict, lambda name: name, strict, label_channels)

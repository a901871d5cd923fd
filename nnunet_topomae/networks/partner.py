"""The network beside the ViT: what both phases ask of it.

Losses, masks, points, data and trainers do not know which network they serve. There are two: `UNETRPP`, the paper's,
and `PlanNetwork`, the one that nnU-Net has planned for the dataset.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from nnunet_topomae.networks.geometry import Size3D


class Partner(nn.Module):
    """An encoder and a decoder that meet in a list of feature maps.

    Attributes:
        encoder: an image [B, C, D, H, W] to features [B, channels, *grid], finest first.
        decoder: such features to [B, K, D, H, W] or, where its attribute `deep_supervision` is set, to a list of them,
            finest first. Its `seg_layers` make classes of features.
        feature_channels, feature_grids: of the features; the first are at full resolution, the last the bottleneck.
        deep_supervision_scales: sizes of the outputs as fractions of the patch, finest first (nnU-Net's `ds_scales`).
        deep_supervision_weights: of their losses; None: nnU-Net's.
        key_to_encoder, key_to_stem, keys_to_in_proj: names of parts, as dynamic-network-architectures has them: of the
            encoder, of its stem, of the layers that read the image's channels.
    """

    encoder: nn.Module
    decoder: nn.Module
    feature_channels: tuple[int, ...]
    feature_grids: tuple[Size3D, ...]
    deep_supervision_scales: list[list[float]]
    deep_supervision_weights: Sequence[float] | None
    key_to_encoder: str
    key_to_stem: str
    keys_to_in_proj: tuple[str, ...]

    def full_resolution_encoder(self) -> nn.Module:
        """The part of the encoder that gives the first of its features, alone, under the same names."""
        raise NotImplementedError

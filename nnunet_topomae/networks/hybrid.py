"""The network of fine-tuning: the partner complemented by the features of a ViT encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from nnunet_topomae.networks.copretrain import PARTNER_DECODER, PARTNER_ENCODER, VIT_ENCODER
from nnunet_topomae.networks.fusion import FUSIONS
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.partners import Partner
from nnunet_topomae.networks.presets import ViTConfig
from nnunet_topomae.networks.pretrained import LoadReport, load_adapted
from nnunet_topomae.networks.vit import ViTEncoder

# Where the parts of this network lie in the state dict of CoPretrainingNetwork.
PRETRAINED_PARTS = {"vit.": VIT_ENCODER, "encoder.": PARTNER_ENCODER, "decoder.": PARTNER_DECODER}
SEG_LAYERS, FUSION = "decoder.seg_layers.", "fusion."


class HybridSegmentationNetwork(nn.Module):
    """ViT encoder and the partner's encoder side by side, a fusion, the partner's decoder.

    Args:
        input_channels: C of the image.
        num_classes: K, background included.
        geometry: of the tokens.
        vit: size of the ViT.
        partner: the network beside it.
        deep_supervision: return outputs at several resolutions; may be changed through `decoder.deep_supervision`.
        fusion: a name out of `FUSIONS`.

    Attributes:
        deep_supervision_scales, deep_supervision_weights: see `PartnerNetwork`.

    Raises:
        ValueError: an unknown fusion.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        geometry: Geometry,
        vit: ViTConfig,
        partner: Partner,
        deep_supervision: bool = True,
        fusion: str = "stages",
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {fusion!r}: choose one of {', '.join(FUSIONS)}")
        self.geometry = geometry
        network = partner.build(input_channels, num_classes, deep_supervision=deep_supervision)
        self.key_to_encoder, self.key_to_stem = network.key_to_encoder, network.key_to_stem
        self.keys_to_in_proj = (*network.keys_to_in_proj, "vit.token_embedding")
        self.on_grid = dict(partner.on_grid)  # a proxy cannot be copied
        self.deep_supervision_scales = network.deep_supervision_scales
        self.deep_supervision_weights = network.deep_supervision_weights
        self.fusion = self.vit = None
        kind = FUSIONS[fusion]
        if kind is not None:
            self.fusion = kind(vit.embed_dim, network.feature_channels, network.feature_grids)
            self.vit = ViTEncoder.of(input_channels, geometry, vit)
        self.encoder = network.encoder
        self.decoder = network.decoder

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """[B, C, D, H, W] to logits [B, K, D, H, W] or, under deep supervision, a list of them, finest first."""
        features = self.encoder(x)
        if self.fusion is not None and self.vit is not None:
            vit_features = self.vit(x).transpose(1, 2).unflatten(2, self.geometry.token_grid)  # [B, C, D, H, W]
            features = self.fusion(features, vit_features)
        return self.decoder(features)

    def load_pretrained(
        self, state_dict: Mapping[str, torch.Tensor], label_channels: int = 0, image_channels: int | None = None
    ) -> LoadReport:
        """Fill this network with weights in the names of a `CoPretrainingNetwork`, as `networks/foreign.py` gives them.

        Channels and patch may differ from pre-training: stems are repeated and rescaled, whatever belongs to a grid
        is resampled. Segmentation layers stay as they are, and so does what the weights lack: a fusion, a ViT, stages.

        Args:
            state_dict: the weights.
            label_channels: how many of the input channels, the last ones, are labels of a cascade's previous stage.
                Pre-training has seen no such thing, so their weights start at zero: what the network makes of the
                image is at first what it has learned, and the labels come in by training.
            image_channels: how many of the weights' input channels, the first ones, are of an image; None: all.

        Raises:
            ValueError: not such weights; a ViT that is not like this one; not half of the partner's encoder would be
                filled. The message lists the mismatch by layer, and nothing has been loaded.
        """
        has_vit = any(name.startswith(VIT_ENCODER) for name in state_dict)
        strict = (VIT_ENCODER,) if has_vit and self.vit is not None else ()
        return load_adapted(self, state_dict, self._pretrained_name, strict, label_channels, image_channels)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of the pre-trained `vit` and `partner`, and `new` ones, which no pre-training fills."""
        parts: dict[str, list[nn.Parameter]] = {"vit": [], "partner": [], "new": []}
        for name, parameter in self.named_parameters():
            is_new = name.startswith((SEG_LAYERS, FUSION))
            parts["new" if is_new else "vit" if name.startswith("vit.") else "partner"].append(parameter)
        return parts

    @property
    def pretrained_names(self) -> list[str]:
        """What `load_pretrained` looks for."""
        return [origin for name in self.state_dict() if (origin := self._pretrained_name(name)) is not None]

    @staticmethod
    def _pretrained_name(name: str) -> str | None:
        """The name in pre-training of a parameter or buffer of this network; None for what starts anew."""
        if name.startswith(SEG_LAYERS):
            return None
        if name.startswith(FUSION):
            return name
        here, there = next(pair for pair in PRETRAINED_PARTS.items() if name.startswith(pair[0]))
        return there + name.removeprefix(here)

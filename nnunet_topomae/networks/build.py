"""From a plan's geometry and a preset to the networks of both phases."""

from __future__ import annotations

from typing import Any

from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.networks.partner import Partner
from nnunet_topomae.networks.plan_network import PlanArchitecture, PlanNetwork
from nnunet_topomae.networks.presets import Preset
from nnunet_topomae.networks.unetrpp import UNETRPP
from nnunet_topomae.networks.vit import ViTEncoder


def build_vit_encoder(
    input_channels: int, geometry: Geometry, preset: Preset, drop_path_rate: float, layer_scale: float | None
) -> ViTEncoder:
    arguments = vit_encoder_arguments(input_channels, geometry, preset, layer_scale)
    return ViTEncoder(**arguments, drop_path_rate=drop_path_rate)


def build_partner(
    input_channels: int,
    num_classes: int,
    geometry: Geometry,
    preset: Preset,
    architecture: PlanArchitecture | None = None,
    single_output: bool = False,
    deep_supervision: bool = False,
) -> Partner:
    """The network of that architecture or, without one, UNETR++.

    Args:
        single_output: without the segmentation layers of deep supervision, which reconstruction has no use for.
    """
    if architecture is not None:
        return PlanNetwork(
            input_channels, num_classes, geometry.patch_size, architecture, single_output, deep_supervision
        )
    return UNETRPP(
        **unetrpp_arguments(input_channels, geometry, preset),
        num_classes=num_classes,
        n_outputs=1 if single_output else 3,
        deep_supervision=deep_supervision,
    )


def vit_encoder_arguments(
    input_channels: int, geometry: Geometry, preset: Preset, layer_scale: float | None
) -> dict[str, Any]:
    """What a `ViTEncoder` is built from, as far as its weights depend on it."""
    return {
        "input_channels": input_channels,
        "patch_size": geometry.patch_size,
        "token_size": geometry.token_size,
        "embed_dim": preset.vit_embed_dim,
        "depth": preset.vit_depth,
        "num_heads": preset.vit_num_heads,
        "layer_scale": layer_scale,
    }


def unetrpp_arguments(input_channels: int, geometry: Geometry, preset: Preset) -> dict[str, Any]:
    """What a `UNETRPP` is built from, but for its outputs."""
    return {
        "input_channels": input_channels,
        "patch_size": geometry.patch_size,
        "stem_stride": geometry.stem_stride,
        "stage_strides": geometry.stage_strides,
        "features_per_stage": preset.features_per_stage,
        "n_blocks_per_stage": (preset.n_blocks_per_stage,) * 4,
        "n_blocks_per_stage_decoder": (preset.n_blocks_per_stage,) * 3,
        "num_heads": preset.epa_num_heads,
        "projection_sizes": preset.projection_sizes,
        "projection_size_decoder": preset.projection_sizes[0],
        "dropout": preset.dropout,
    }

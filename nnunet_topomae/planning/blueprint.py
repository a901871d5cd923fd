"""From a plan and the knobs to what both networks are built of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from nnunet_topomae.config import TopoMAEConfig, or_preset
from nnunet_topomae.networks.geometry import Geometry, geometry_from_plan
from nnunet_topomae.networks.partners import Partner, partner_class
from nnunet_topomae.networks.presets import PRESETS, ViTConfig


class Blueprint(NamedTuple):
    """What `CoPretrainingNetwork` and `HybridSegmentationNetwork` take after the numbers of channels."""

    geometry: Geometry
    vit: ViTConfig
    partner: Partner

    @classmethod
    def of(cls, configuration: Mapping[str, Any], config: TopoMAEConfig) -> Blueprint:
        """For a configuration of nnU-Net's plans. Raises ValueError that says what is wrong with the plans."""
        geometry = geometry_of(configuration)
        return cls(geometry, vit_config(config), partner_class(config.partner).of(configuration, config.preset))


def vit_config(config: TopoMAEConfig) -> ViTConfig:
    """The preset's ViT with what knobs have changed."""
    preset = PRESETS[config.preset]
    return replace(
        preset,
        views=or_preset(config.vit_views, preset.views),
        steps=or_preset(config.vit_steps, preset.steps),
    )


def geometry_of(configuration: Mapping[str, Any]) -> Geometry:
    """The tokens for a configuration of nnU-Net's plans. Raises ValueError that says what is wrong with the plans."""
    try:
        patch_size, strides = configuration["patch_size"], configuration["architecture"]["arch_kwargs"]["strides"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the configuration in the plans has no patch_size or no architecture.arch_kwargs.strides ({error!r}): "
            "plan the dataset again with nnUNetv2_plan_experiment"
        ) from error
    return geometry_from_plan(patch_size, strides)


def patch_holds_most_volumes(configuration: Mapping[str, Any]) -> bool:
    """Whether the median volume of a configuration of nnU-Net's plans fits into its patch; False if none is named."""
    median = configuration.get("median_image_size_in_voxels")
    return median is not None and all(
        side <= patch for side, patch in zip(median, configuration["patch_size"], strict=True)
    )

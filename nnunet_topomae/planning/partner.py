"""What the network beside the ViT is built from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks.plan_network import PlanArchitecture


def partner_architecture(configuration: Mapping[str, Any], config: TopoMAEConfig) -> PlanArchitecture | None:
    """The plan's, where the knob `partner` asks for it; None for UNETR++, which the preset describes."""
    return PlanArchitecture.of(configuration) if config.partner == "plan" else None

"""The networks of pre-training and fine-tuning, and their geometry."""

from nnunet_topomae.networks.copretrain import BranchOutput, CoPretrainingNetwork, CoPretrainingOutput
from nnunet_topomae.networks.geometry import Geometry, geometry_from_plan
from nnunet_topomae.networks.hybrid import HybridSegmentationNetwork
from nnunet_topomae.networks.partners import Partner
from nnunet_topomae.networks.presets import PRESETS, ViTConfig
from nnunet_topomae.networks.pretrained import LoadReport
from nnunet_topomae.networks.unetrpp import UNETRPP

__all__ = [
    "PRESETS",
    "UNETRPP",
    "BranchOutput",
    "CoPretrainingNetwork",
    "CoPretrainingOutput",
    "Geometry",
    "HybridSegmentationNetwork",
    "LoadReport",
    "Partner",
    "ViTConfig",
    "geometry_from_plan",
]

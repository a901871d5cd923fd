"""The network that nnU-Net has planned for a dataset: PlainConvUNet, ResidualEncoderUNet, whatever the plan names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.residual import StackedResidualBlocks
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import nn

from nnunet_topomae.networks.geometry import Size3D, cumulative, grid, triple
from nnunet_topomae.networks.partners.partner import LearningRates, Partner, PartnerNetwork

NNUNET_TRAINER = "nnUNetTrainerAdam1en3"  # AdamW at 1e-3, which comes with nnU-Net
RATES = LearningRates(pretrain=1e-3, finetune=3e-3)
# Of convolutions before norms: that trainer turns them as far in a step as our fine-tuning does at its default rate.
NNUNET_SCALE = 1e-3 / RATES.finetune


@dataclass(frozen=True)
class PlanPartner(Partner):
    """A network as nnU-Net's plans describe it, with their strides, kernels and norms; no preset changes its size.

    Attributes:
        patch_size: voxels.
        network_class: with its module.
        network_arguments: of that class, but for channels and deep supervision.
        names_to_import: those arguments that name a class.

    Raises:
        ValueError: strides that do not divide the patch.
    """

    patch_size: Size3D
    network_class: str
    network_arguments: Mapping[str, Any]
    names_to_import: Sequence[str] = ()

    citation = (
        "nnU-Net",
        "Isensee, F., Jaeger, P. F., Kohl, S. A., Petersen, J., & Maier-Hein, K. H. (2021). nnU-Net: a "
        "self-configuring method for deep learning-based biomedical image segmentation. Nature Methods, 18(2).",
    )
    file_stem = "plan_network"
    blocks = (StackedConvBlocks, StackedResidualBlocks)
    not_exported = (*Partner.not_exported, "decoder.encoder")  # the latter is the encoder again

    @classmethod
    def of(cls, configuration: Mapping[str, Any], preset: str) -> PlanPartner:
        network = configuration["architecture"]
        return cls(
            triple(configuration["patch_size"]),
            network["network_class_name"],
            network["arch_kwargs"],
            network["_kw_requires_import"],
        )

    @classmethod
    def learning_rates(cls, preset: str) -> LearningRates:
        return RATES

    @property
    def title(self) -> str:
        return self.network_class.rpartition(".")[-1]

    @property
    def class_name(self) -> str:
        return self.network_class

    @property
    def cumulative_strides(self) -> list[Size3D]:
        """Voxels per grid point in each stage."""
        return cumulative(self.network_arguments["strides"])

    @property
    def stage_grids(self) -> list[Size3D]:
        return [grid(self.patch_size, stride) for stride in self.cumulative_strides]

    def arguments(self, input_channels: int) -> dict[str, Any]:
        return {"input_channels": input_channels, **self.network_arguments}

    def nnunets_network(self, input_channels: int, num_classes: int, deep_supervision: bool) -> nn.Module:
        """The network as nnU-Net's own trainer has it."""
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        return get_network_from_plans(
            self.network_class,
            self.network_arguments,
            self.names_to_import,
            input_channels,
            num_classes,
            allow_init=True,
            deep_supervision=deep_supervision,
        )

    def build(
        self, input_channels: int, num_classes: int, single_output: bool = False, deep_supervision: bool = False
    ) -> PlanNetwork:
        """Raises ValueError for a network that is not made of an encoder with skips and a decoder."""
        return PlanNetwork(self, input_channels, num_classes, single_output, deep_supervision)

    def for_nnunet(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return nnunet_weights(scaled_before_norms(weights, NNUNET_SCALE))


PARTNER = PlanPartner


class PlanNetwork(PartnerNetwork):
    """nnU-Net's network in two parts; arguments and errors are those of `PlanPartner.build`."""

    deep_supervision_weights = None

    def __init__(
        self, plan: PlanPartner, input_channels: int, num_classes: int, single_output: bool, deep_supervision: bool
    ) -> None:
        super().__init__()
        network: Any = plan.nnunets_network(input_channels, num_classes, deep_supervision)
        if not all(hasattr(network, part) for part in ("encoder", "decoder", "keys_to_in_proj")) or not getattr(
            network.encoder, "return_skips", False
        ):
            raise ValueError(
                f"the plan's network {plan.network_class} is no U-Net with an encoder and a decoder, which the "
                "knob partner = plan needs: take partner = unetrpp, or plans with PlainConvUNet or ResidualEncoderUNet"
            )
        self.encoder, self.decoder = network.encoder, network.decoder
        del network.decoder.encoder  # a second name for the same weights
        if single_output:
            network.decoder.seg_layers = network.decoder.seg_layers[-1:]
        self.key_to_encoder, self.key_to_stem = network.key_to_encoder, network.key_to_stem
        self.keys_to_in_proj = tuple(network.keys_to_in_proj)
        self.feature_channels = tuple(network.encoder.output_channels)
        self.feature_grids = tuple(plan.stage_grids)
        self.deep_supervision_scales = [[1 / edge for edge in stride] for stride in plan.cumulative_strides[:-1]]

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """[B, C, D, H, W] to logits [B, K, D, H, W], or to a list of them, finest first, under deep supervision."""
        return self.decoder(self.encoder(x))


def nnunet_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a `PlanNetwork` under the names of nnU-Net's own network, whose decoder holds the encoder, too."""
    encoder = {f"decoder.{name}": weight for name, weight in weights.items() if name.startswith("encoder.")}
    return {**weights, **encoder}


def scaled_before_norms(weights: Mapping[str, torch.Tensor], factor: float) -> dict[str, torch.Tensor]:
    """Weights of the same network, whose convolutions before an InstanceNorm are `factor` times as large.

    The norm hides their size, up to its ε. What changes is how far a step of an optimiser turns them: 1 / `factor`
    times as far with AdamW, 1 / `factor`² with SGD (van Laarhoven 2017, arXiv 1706.05350).
    """
    return {name: weight * factor if _is_before_norm(name, weights) else weight for name, weight in weights.items()}


def _is_before_norm(name: str, weights: Mapping[str, torch.Tensor]) -> bool:
    """Each block of dynamic-network-architectures has its convolution under two names. A norm that keeps statistics of
    what it gets, as BatchNorm does, knows the convolution's size."""
    for own_name in (".conv.", ".all_modules.0."):
        block, found, _ = name.rpartition(own_name)
        if found:
            return f"{block}.norm.weight" in weights and f"{block}.norm.running_mean" not in weights
    return False

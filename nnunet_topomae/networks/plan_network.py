"""The network that nnU-Net has planned for a dataset, as partner of the ViT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from nnunet_topomae.networks.geometry import Size3D, triple
from nnunet_topomae.networks.partner import Partner


@dataclass(frozen=True)
class PlanArchitecture:
    """A network as nnU-Net's plans describe it.

    Attributes:
        class_name: with its module.
        arguments: of that class, but for channels and deep supervision.
        names_to_import: those arguments that name a class.
    """

    class_name: str
    arguments: Mapping[str, Any]
    names_to_import: Sequence[str]

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> PlanArchitecture:
        """Of a configuration in the plans."""
        architecture = configuration["architecture"]
        return cls(architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"])

    def grids(self, patch_size: Size3D) -> tuple[Size3D, ...]:
        """Of the features of its stages, finest first. Raises ValueError for strides that do not divide the patch."""
        return tuple(_grid(patch_size, stride) for stride in self.cumulative_strides)

    @property
    def cumulative_strides(self) -> list[list[int]]:
        """Voxels per grid point in each stage."""
        strides = self.arguments["strides"]
        return list(accumulate(strides, lambda a, b: [x * y for x, y in zip(a, b, strict=True)]))

    def build(self, input_channels: int, num_classes: int, deep_supervision: bool) -> nn.Module:
        """The network as nnU-Net's own trainer has it, with its initial weights."""
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        return get_network_from_plans(
            self.class_name,
            self.arguments,
            self.names_to_import,
            input_channels,
            num_classes,
            allow_init=True,
            deep_supervision=deep_supervision,
        )


class PlanNetwork(Partner):
    """nnU-Net's network, whatever the plan has: PlainConvUNet, ResidualEncoderUNet, with its strides, kernels, norms.

    Args:
        input_channels: C of the image.
        num_classes: K, background included.
        patch_size: voxels.
        architecture: of the plan.
        single_output: leave out the segmentation layers of deep supervision.
        deep_supervision: return all outputs; may be changed later through `decoder.deep_supervision`.

    Raises:
        ValueError: a network that is not made of an encoder with skips and a decoder, or a patch that its strides do
            not divide.
    """

    deep_supervision_weights = None

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Size3D,
        architecture: PlanArchitecture,
        single_output: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        network: Any = architecture.build(input_channels, num_classes, deep_supervision)
        if not all(hasattr(network, part) for part in ("encoder", "decoder", "keys_to_in_proj")) or not getattr(
            network.encoder, "return_skips", False
        ):
            raise ValueError(
                f"the plan's network {architecture.class_name} is no U-Net with an encoder and a decoder, which the "
                "knob partner = plan needs: take partner = unetrpp, or plans with PlainConvUNet or ResidualEncoderUNet"
            )
        self.encoder, self.decoder = network.encoder, network.decoder
        del network.decoder.encoder  # a second name for the same weights
        if single_output:
            network.decoder.seg_layers = network.decoder.seg_layers[-1:]
        self.key_to_encoder, self.key_to_stem = network.key_to_encoder, network.key_to_stem
        self.keys_to_in_proj = tuple(network.keys_to_in_proj)
        self.feature_channels = tuple(network.encoder.output_channels)
        self.feature_grids = architecture.grids(patch_size)
        self.deep_supervision_scales = [
            [1 / edge for edge in stride] for stride in architecture.cumulative_strides[:-1]
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """[B, C, D, H, W] to logits [B, K, D, H, W], or to a list of them, finest first, under deep supervision."""
        return self.decoder(self.encoder(x))

    def full_resolution_encoder(self) -> nn.Module:
        return FirstStage(self.encoder)


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


class FirstStage(nn.Module):
    """What is left of the encoder where the ViT takes the place of its lower stages."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.stem = getattr(encoder, "stem", None)
        self.stages = encoder.stages[:1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Features at full resolution alone."""
        return [self.stages(x if self.stem is None else self.stem(x))]


def _grid(patch_size: Size3D, stride: Sequence[int]) -> Size3D:
    if any(side % step for side, step in zip(patch_size, stride, strict=True)):
        raise ValueError(f"the plan's strides, {tuple(stride)} in all, do not divide its patch {tuple(patch_size)}")
    return triple(side // step for side, step in zip(patch_size, stride, strict=True))

"""What both phases, planning and export ask of the network beside the ViT.

Losses, masks, points, data and trainers do not know which network they serve.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from nnunet_topomae.networks.geometry import Size3D


class PartnerNetwork(nn.Module):
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


class OnGrid(NamedTuple):
    """A parameter whose last three axes are a grid of the patch, or a kernel: it is resampled where that differs.

    Attributes:
        name: of the parameter in its module.
        summed: whether the module sums over the grid: then a constant must give the same as before.
    """

    name: str
    summed: bool


class LearningRates(NamedTuple):
    """Peak learning rates (AdamW) of the partner and of new layers in both phases."""

    pretrain: float
    finetune: float


class Partner(ABC):
    """A network beside the ViT as a plan and a preset ask for it; `build` makes it.

    Attributes:
        citation: name and reference of the architecture.
        file_stem: what the names of exported files begin with.
        blocks: the modules that gradient checkpointing computes again.
        on_grid: parameters that belong to the grid of a patch, besides convolutions, by the kind of their module.
        not_exported: prefixes of the parameters that exported weights lack.
        names_to_import: those of `arguments` that name a class.
    """

    citation: ClassVar[tuple[str, str]]
    file_stem: ClassVar[str]
    blocks: ClassVar[tuple[type[nn.Module], ...]]
    on_grid: ClassVar[Mapping[type[nn.Module], OnGrid]] = {}
    not_exported: ClassVar[tuple[str, ...]] = ("decoder.seg_layers",)
    names_to_import: Sequence[str] = ()

    @classmethod
    @abstractmethod
    def of(cls, configuration: Mapping[str, Any], preset: str) -> Partner:
        """For a configuration of nnU-Net's plans. Raises ValueError where the two do not go together."""

    @classmethod
    @abstractmethod
    def learning_rates(cls, preset: str) -> LearningRates:
        """Defaults for a size."""

    @abstractmethod
    def build(
        self, input_channels: int, num_classes: int, single_output: bool = False, deep_supervision: bool = False
    ) -> PartnerNetwork:
        """With initial weights.

        Args:
            input_channels: C of the image.
            num_classes: K of the outputs.
            single_output: without the segmentation layers of deep supervision, which reconstruction has no use for.
            deep_supervision: return all outputs; may be changed later through `decoder.deep_supervision`.
        """

    @property
    @abstractmethod
    def title(self) -> str:
        """The architecture's name."""

    @property
    @abstractmethod
    def stage_grids(self) -> Sequence[Size3D]:
        """Spatial sizes of its stages, finest first."""

    @property
    @abstractmethod
    def class_name(self) -> str:
        """With its module, of what nnU-Net's `get_network_from_plans` builds from `arguments`."""

    @abstractmethod
    def arguments(self, input_channels: int) -> dict[str, Any]:
        """Of that class, but for classes and deep supervision; values as JSON has them."""

    def for_nnunet(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """Weights for `nnUNetv2_train -pretrained_weights`; None where nnU-Net's own trainers have no such network."""
        return None

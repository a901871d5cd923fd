"""UNETR++, the partner of the paper whose method this is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nnunet_topomae.networks.geometry import Size3D, Strides, cumulative, grid, strides_from_plan
from nnunet_topomae.networks.partners.partner import LearningRates, OnGrid, Partner
from nnunet_topomae.networks.unetrpp import UNETRPP, EPABlock, TokenProjection


@dataclass(frozen=True)
class Size:
    """Widths and depths.

    Attributes:
        features_per_stage: channels of the four stages, finest first.
        n_blocks_per_stage: EPA blocks in each stage, of the encoder and of the decoder.
        num_heads: attention heads of every EPA block.
        projection_sizes: tokens that keys and values are projected to, per stage of the encoder; the decoder uses the
            first throughout.
        dropout: of attention and after the convolutions.
        learning_rates: narrow networks want higher ones.
    """

    features_per_stage: tuple[int, int, int, int]
    n_blocks_per_stage: int
    num_heads: int
    projection_sizes: tuple[int, int, int, int]
    dropout: float
    learning_rates: LearningRates


SIZES: Mapping[str, Size] = {
    "tiny": Size(
        features_per_stage=(8, 16, 32, 64),
        n_blocks_per_stage=1,
        num_heads=2,
        projection_sizes=(32, 32, 32, 16),
        dropout=0.0,
        learning_rates=LearningRates(pretrain=1e-3, finetune=6e-3),
    ),
    "small": Size(  # a third of the published blocks
        features_per_stage=(32, 64, 128, 256),
        n_blocks_per_stage=1,
        num_heads=4,
        projection_sizes=(64, 64, 64, 32),
        dropout=0.1,
        learning_rates=LearningRates(pretrain=1e-3, finetune=2e-3),
    ),
    "base": Size(  # as published
        features_per_stage=(32, 64, 128, 256),
        n_blocks_per_stage=3,
        num_heads=4,
        projection_sizes=(64, 64, 64, 32),
        dropout=0.1,
        learning_rates=LearningRates(pretrain=3e-4, finetune=3e-4),
    ),
}


@dataclass(frozen=True)
class UNETRPPPartner(Partner):
    """UNETR++ with the blocks published for Synapse.

    Attributes:
        patch_size: voxels.
        strides: of the stem and the three downsamplings.
        size: widths and depths.
        variant: what the blocks of a subclass have otherwise, as arguments of `UNETRPP`.
    """

    patch_size: Size3D
    strides: Strides
    size: Size

    variant: ClassVar[Mapping[str, Any]] = {}
    citation = (
        "UNETR++",
        "Shaker, A., Maaz, M., Rasheed, H., Khan, S., Yang, M.-H., & Khan, F. S. (2024). UNETR++: Delving into "
        "Efficient and Accurate 3D Medical Image Segmentation. IEEE Transactions on Medical Imaging.",
    )
    file_stem = "unetrpp"
    title = "UNETR++"
    class_name = f"{UNETRPP.__module__}.{UNETRPP.__qualname__}"
    blocks = (EPABlock,)
    on_grid = {EPABlock: OnGrid("position_embedding", summed=False), TokenProjection: OnGrid("weight", summed=True)}

    @classmethod
    def of(cls, configuration: Mapping[str, Any], preset: str) -> UNETRPPPartner:
        strides = configuration["architecture"]["arch_kwargs"]["strides"]
        return cls(*strides_from_plan(configuration["patch_size"], strides), SIZES[preset])

    @classmethod
    def learning_rates(cls, preset: str) -> LearningRates:
        return SIZES[preset].learning_rates

    @property
    def stage_grids(self) -> list[Size3D]:
        return [grid(self.patch_size, stride) for stride in cumulative(self.strides)]

    def arguments(self, input_channels: int) -> dict[str, Any]:
        size, (stem_stride, *stage_strides) = self.size, self.strides
        return {
            "input_channels": input_channels,
            "patch_size": self.patch_size,
            "stem_stride": stem_stride,
            "stage_strides": stage_strides,
            "features_per_stage": size.features_per_stage,
            "n_blocks_per_stage": (size.n_blocks_per_stage,) * 4,
            "n_blocks_per_stage_decoder": (size.n_blocks_per_stage,) * 3,
            "num_heads": size.num_heads,
            "projection_sizes": size.projection_sizes,
            "projection_size_decoder": size.projection_sizes[0],
            "dropout": size.dropout,
            **self.variant,
        }

    def build(
        self, input_channels: int, num_classes: int, single_output: bool = False, deep_supervision: bool = False
    ) -> UNETRPP:
        return UNETRPP(
            **self.arguments(input_channels),
            num_classes=num_classes,
            n_outputs=1 if single_output else 3,
            deep_supervision=deep_supervision,
        )


PARTNER = UNETRPPPartner

"""Soft clDice beside nnU-Net's loss: an arm of `few_labels.py`, to hold a topological loss against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn

from nnunet_topomae.losses.segmentation import SegmentationLoss
from nnunet_topomae.topology import TopologicalLoss
from nnunet_topomae.training.finetuner import TopoMAEFinetuner


class ClDiceLoss(nn.Module):
    """nnU-Net's loss + soft clDice of the classes in full resolution, by MONAI (Shit et al., CVPR 2021)."""

    def __init__(self, base: nn.Module, labels: LabelManager) -> None:
        super().__init__()
        try:
            from monai.losses import SoftclDiceLoss
        except ImportError as error:
            raise ImportError("soft clDice is MONAI's: pip install --no-deps monai") from error
        self.segmentation = SegmentationLoss(base, TopologicalLoss(), labels)
        self.cl_dice = SoftclDiceLoss()

    def forward(self, output: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> torch.Tensor:
        """A scalar, of both by resolution."""
        maps = self.segmentation.class_maps(output[0], target[0])
        return self.segmentation(output, target) + self.cl_dice(*maps)


class SoftClDiceFinetuner(TopoMAEFinetuner):
    """Fine-tuning with it."""

    def _build_loss(self) -> nn.Module:
        return ClDiceLoss(super()._build_loss(), self.label_manager)

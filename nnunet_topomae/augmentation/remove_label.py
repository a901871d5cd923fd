"""One label for another."""

from __future__ import annotations

from typing import Any

import torch
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform


class DeviceRemoveLabelTransform(RemoveLabelTransform):
    """Fills by the mask itself, which takes no list of the voxels that it covers."""

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        channels = range(len(segmentation)) if self.segmentation_channels is None else self.segmentation_channels
        for channel in channels:
            segmentation[channel].masked_fill_(segmentation[channel] == self.label_value, self.set_to)
        return segmentation

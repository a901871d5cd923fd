"""What lies outside of the normalisation mask, and one label for another: filled by the mask itself.

Indexing by a mask, as batchgeneratorsv2 does, makes a list of the voxels that it covers, for which a device is waited.
"""

from __future__ import annotations

from typing import Any

import torch
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform


class DeviceMaskImageTransform(MaskImageTransform):
    def apply(self, sample: dict[str, Any], **params: Any) -> dict[str, Any]:
        outside = sample["segmentation"][self.channel_idx_in_seg] < 0
        for channel in self.apply_to_channels:
            sample["image"][channel].masked_fill_(outside, self.set_outside_to)
        return sample


class DeviceRemoveLabelTransform(RemoveLabelTransform):
    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        channels = range(len(segmentation)) if self.segmentation_channels is None else self.segmentation_channels
        for channel in channels:
            segmentation[channel].masked_fill_(segmentation[channel] == self.label_value, self.set_to)
        return segmentation

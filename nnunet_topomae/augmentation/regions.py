"""Labels to regions, which may overlap."""

from __future__ import annotations

from typing import Any

import torch
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform


class DeviceConvertSegmentationToRegionsTransform(ConvertSegmentationToRegionsTransform):
    """Compares with numbers: the labels of the regions are tensors on the CPU."""

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        labels = segmentation[self.channel_in_seg]
        regions = torch.zeros((len(self.regions), *labels.shape), dtype=torch.bool, device=labels.device)
        for region, members in zip(regions, self.regions, strict=True):
            for label in members.tolist():
                region |= labels == label
        return regions

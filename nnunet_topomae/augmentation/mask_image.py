"""What lies outside of the normalisation mask."""

from __future__ import annotations

from typing import Any

from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform


class DeviceMaskImageTransform(MaskImageTransform):
    """Fills by the mask itself, which takes no list of the voxels that it covers."""

    def apply(self, sample: dict[str, Any], **params: Any) -> dict[str, Any]:
        outside = sample["segmentation"][self.channel_idx_in_seg] < 0
        for channel in self.apply_to_channels:
            sample["image"][channel].masked_fill_(outside, self.set_outside_to)
        return sample

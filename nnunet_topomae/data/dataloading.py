"""nnU-Net's data loader without labels, with the nine points of each crop, and with its augmentation left open."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.utils.cropping import center_crop
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from threadpoolctl import ThreadpoolController

from nnunet_topomae.pretext.position import crop_at, nine_points

MAX_DRAWS = 20


class CropDataLoader(nnUNetDataLoader):
    """nnU-Net's data loader for images alone.

    Neither the segmentation nor the class locations of a case are looked at: crops are drawn uniformly. A crop without
    any contrast teaches nothing and is drawn again, up to MAX_DRAWS times: the image itself may be constant.
    """

    def draw_crop(self, key: str) -> dict[str, torch.Tensor]:
        """`image` [C, *patch], `crop_to_volume` [3, 4], `volume_shape`, as the transforms leave them."""
        volume = self._data.load_case(key)[0]
        shape = volume.shape[1:]
        for _ in range(MAX_DRAWS):
            sample = self._crop(volume, self._draw_corner(shape))
            image = sample["image"]
            if not torch.isfinite(image).all():
                raise ValueError(
                    f"case {key}: the image holds NaN or infinity. Repair it and preprocess the dataset again"
                )
            patch = center_crop(image, self.final_patch_size[1 - image.ndim :])  # a larger crop may yet be turned
            if patch.min() < patch.max():
                break
        return sample | {"volume_shape": torch.tensor(shape)}

    def _draw_corner(self, shape: tuple[int, ...]) -> list[int]:
        # The parent looks up annotated voxels where a dataset has an ignore label: labels, which must not matter here.
        self.has_ignore = False
        return self.get_bbox(np.array(shape), force_fg=False, class_locations=None)[0]

    def _crop(self, volume: np.ndarray, lower: list[int]) -> dict[str, torch.Tensor]:
        box = [[low, low + side] for low, side in zip(lower, self.patch_size, strict=True)]
        image = torch.from_numpy(crop_and_pad_nd(volume, box, 0)).float()
        sample = {"image": image, "crop_to_volume": crop_at(lower)}
        return sample if self.transforms is None else self.transforms(**sample)


class CropPositionDataLoader(CropDataLoader):
    """A batch holds

    data: [B, C, *patch_size] float32, zero outside of the volume.
    points: [B, 9, 3] float32, centre and corners of each crop in coordinates of its volume (`pretext/position.py`).
    crop_to_volume: [B, 3, 4] float64, from the crop's voxel indices to the volume's.
    volume_shape: [B, 3] int64.
    keys: the B case identifiers.
    """

    def generate_train_batch(self) -> dict[str, Any]:
        keys = self.get_indices()
        with torch.no_grad(), thread_pools().limit(limits=1):
            return collate_crops([self.draw_sample(key) for key in keys]) | {"keys": keys}

    def draw_sample(self, key: str) -> dict[str, torch.Tensor]:
        return located(self.draw_crop(key), self.final_patch_size)


class CropSampleDataLoader(CropDataLoader):
    """A batch holds `samples`, of different sizes, whose augmentation goes on elsewhere, and their `keys`."""

    def generate_train_batch(self) -> dict[str, Any]:
        keys = self.get_indices()
        with torch.no_grad(), thread_pools().limit(limits=1):
            return {"samples": [self.draw_crop(key) for key in keys], "keys": keys}


class SampleDataLoader(nnUNetDataLoader):
    """nnU-Net's data loader, labels included, whose batches hold `samples`, which may differ in size, and their `keys`.

    Each sample is as `transforms` leaves it.
    """

    transforms: Any

    def generate_train_batch(self) -> dict[str, Any]:
        first_half, samples = self.transforms, []

        def keep(**sample: torch.Tensor) -> dict[str, torch.Tensor]:
            samples.append(first_half(**sample))
            return {"image": torch.empty(0), "segmentation": torch.empty(0)}  # nothing for nnU-Net to put together

        self.transforms = keep
        try:
            return {"samples": samples, "keys": super().generate_train_batch()["keys"]}
        finally:
            self.transforms = first_half


@cache
def thread_pools() -> ThreadpoolController:
    """Of the libraries in this process. To look for them takes as long as to draw a batch."""
    return ThreadpoolController()


def located(sample: dict[str, torch.Tensor], patch_size: Sequence[int]) -> dict[str, torch.Tensor]:
    """A crop that is augmented, with its nine points."""
    crop_to_volume, shape = sample["crop_to_volume"], sample["volume_shape"]
    return {
        "data": sample["image"],
        "points": nine_points(crop_to_volume, patch_size, shape.tolist()),
        "crop_to_volume": crop_to_volume,
        "volume_shape": shape,
    }


def collate_crops(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch of crops of one size."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

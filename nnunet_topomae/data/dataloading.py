"""nnU-Net's data loader without labels, with the nine points of each crop, and with its augmentation left open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from threadpoolctl import ThreadpoolController

from nnunet_topomae.data.crop_place import Place, RandomPlace, place_at
from nnunet_topomae.pretext.position import nine_points

MAX_DRAWS = 20


class CropDataLoader(nnUNetDataLoader):
    """nnU-Net's data loader for images alone.

    A batch holds `samples` as `transforms` leave them, of different sizes where they are to be augmented elsewhere, and
    their `keys`.

    Neither the segmentation nor the class locations of a case are looked at: crops are drawn uniformly. A crop without
    any contrast teaches nothing and is drawn again, up to MAX_DRAWS times: the image itself may be constant.

    Args:
        random_place: draws how crops are rotated and scaled, before they are read; None: they are not. All else is as
            of nnU-Net's loader.
    """

    def __init__(self, *args: Any, random_place: RandomPlace | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.random_place = random_place

    def generate_train_batch(self) -> dict[str, Any]:
        keys = self.get_indices()
        with torch.no_grad(), thread_pools().limit(limits=1):
            return {"samples": [self.draw_crop(key) for key in keys], "keys": keys}

    def draw_crop(self, key: str) -> dict[str, Any]:
        """`image` [C, *patch], `crop_to_volume` [3, 4], `volume_shape`, as the transforms leave them.

        Before `Resample` there is a `warp`, too, and the image is what that needs of the volume (`Place`).
        """
        volume = opened(self._data, key)
        shape = volume.shape[1:]
        for _ in range(MAX_DRAWS):
            place = self._draw_place(shape)
            image = torch.from_numpy(crop_and_pad_nd(volume, place.box, 0)).float()
            lowest, highest = (extreme.item() for extreme in torch.aminmax(image))  # NaN and infinity show in these
            if not math.isfinite(highest - lowest):
                raise ValueError(
                    f"case {key}: the image holds NaN or infinity. Repair it and preprocess the dataset again"
                )
            if lowest < highest:
                break
        sample = {"image": image, "warp": place.warp, "crop_to_volume": place.crop_to_volume}
        sample = sample if self.transforms is None else self.transforms(**sample)
        return sample | {"volume_shape": torch.tensor(shape)}

    def _draw_place(self, shape: tuple[int, ...]) -> Place:
        # The parent looks up annotated voxels where a dataset has an ignore label: labels, which must not matter here.
        self.has_ignore = False
        lower = self.get_bbox(np.array(shape), force_fg=False, class_locations=None)[0]
        if self.random_place is None:
            return place_at(lower, self.patch_size)
        return self.random_place.draw(lower, shape)


class CropPositionDataLoader(CropDataLoader):
    """A batch holds

    data: [B, C, *patch_size] float32, zero outside of the volume.
    points: [B, 9, 3] float32, centre and corners of each crop in coordinates of its volume (`pretext/position.py`).
    crop_to_volume: [B, 3, 4] float64, from the crop's voxel indices to the volume's.
    volume_shape: [B, 3] int64.
    keys: the B case identifiers.
    """

    def generate_train_batch(self) -> dict[str, Any]:
        batch = super().generate_train_batch()
        return collate_crops(batch["samples"], self.final_patch_size) | {"keys": batch["keys"]}


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


@lru_cache(maxsize=128)  # each takes a file handle and half a megabyte
def opened(dataset: nnUNetBaseDataset, key: str) -> Any:
    """The image [C, D, H, W] of a case, of which only what is indexed is read. To open it takes as long as to crop."""
    return dataset.load_case(key)[0]


@cache
def thread_pools() -> ThreadpoolController:
    """Of the libraries in this process. To look for them takes as long as to draw a batch."""
    return ThreadpoolController()


def collate_crops(samples: Sequence[dict[str, torch.Tensor]], patch_size: Sequence[int]) -> dict[str, torch.Tensor]:
    """A batch of crops that are augmented, with their nine points."""
    names = {"data": "image", "crop_to_volume": "crop_to_volume", "volume_shape": "volume_shape"}
    batch = {name: torch.stack([sample[of_sample] for sample in samples]) for name, of_sample in names.items()}
    places = zip(batch["crop_to_volume"], batch["volume_shape"].tolist(), strict=True)
    return batch | {"points": torch.stack([nine_points(place, patch_size, shape) for place, shape in places])}

"""Batches of samples that may differ in size, for an augmentation that goes on elsewhere."""

from __future__ import annotations

import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


class SampleDataLoader(nnUNetDataLoader):
    """nnU-Net's data loader, whose batches hold `samples`, each as `transforms` leaves it, and their `keys`."""

    def generate_train_batch(self) -> dict:
        first_half, samples = self.transforms, []

        def keep(**sample) -> dict[str, torch.Tensor]:
            samples.append(first_half(**sample))
            return {"image": torch.empty(0), "segmentation": torch.empty(0)}  # nothing for nnU-Net to put together

        self.transforms = keep
        try:
            return {"samples": samples, "keys": super().generate_train_batch()["keys"]}
        finally:
            self.transforms = first_half

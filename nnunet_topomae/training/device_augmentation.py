"""A trainer of nnU-Net whose data workers only read and crop: the training device augments."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.nn.functional import grid_sample

from nnunet_topomae.augmentation.pipeline import SplitPipeline, UnknownTransformError, split_pipeline
from nnunet_topomae.augmentation.random_streams import own_random_numbers
from nnunet_topomae.data.dataloading import SampleDataLoader
from nnunet_topomae.training.prefetch import Prefetcher

Batch = dict[str, Any]


class DeviceAugmentingTrainer(nnUNetTrainer):
    """nnU-Net's trainer, and where it augments. The pipeline is what `get_training_transforms` returns, as ever.

    Attributes:
        augment_on: "device"; "workers": as nnU-Net does; "auto": on the device if that is a GPU of CUDA and knows all
            transforms.
        augmentation_seed: what a batch's augmentation follows from, with the epoch, the number of the step and the
            rank; None: drawn anew.
    """

    dataloader_train: Any
    augment_on = "auto"
    augmentation_seed: int | None = None

    @property
    def wants_the_device(self) -> bool:
        """Whether the device augments, if the pipeline can be done there."""
        if self.augments_previous_stage:
            return False
        return self.augment_on == "device" or (self.augment_on == "auto" and self.device.type == "cuda")

    @property
    def augments_previous_stage(self) -> bool:
        """Whether a cascade's second input is augmented, too, which is by algorithms for the CPU."""
        return self.is_cascaded

    def halves(self, pipeline: BasicTransform) -> SplitPipeline | None:
        """The pipeline in two halves if the device augments, None if data workers do; the log says who, and why.

        Raises:
            UnknownTransformError: the device was asked for by name, and one of the transforms is not known there.
            RuntimeError: the device cannot resample volumes.
        """
        if not self.wants_the_device:
            why = ": a cascade's previous segmentation is augmented on the CPU alone" * self.augments_previous_stage
            self.print_to_log_file(f"Data workers augment{why}.")
            return None
        try:
            halves = split_pipeline(pipeline)
        except UnknownTransformError as error:
            if self.augment_on == "device":
                raise
            self.print_to_log_file(f"Data workers augment: {error.what} is not known to work on a training device.")
            return None
        try:
            volume, grid = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 1, 1, 3)
            grid_sample(volume.to(self.device), grid.to(self.device), align_corners=False)
        except (NotImplementedError, RuntimeError) as error:
            raise RuntimeError(
                f"PyTorch {torch.__version__} cannot resample volumes on {self.device.type} ({error}): "
                "set NNUNET_TOPOMAE_AUGMENT_ON=workers"
            ) from error
        self.print_to_log_file(f"Augmentation on {self.device.type}; data workers read and crop.")
        return halves

    def get_dataloaders(self) -> tuple[Iterator[Batch], Iterator[Batch]]:
        rotation, in_plane, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        patch_size, scales = self.configuration_manager.patch_size, self._get_deep_supervision_scales()
        labels = {
            "is_cascaded": self.is_cascaded,
            "foreground_labels": self.label_manager.foreground_labels,
            "regions": self.label_manager.foreground_regions if self.label_manager.has_regions else None,
            "ignore_label": self.label_manager.ignore_label,
        }
        pipeline = self.get_training_transforms(
            patch_size,
            rotation,
            scales,
            mirror_axes,
            in_plane,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
            **labels,
        )
        halves = self.halves(pipeline)
        train, val = self.get_tr_and_val_datasets()
        options = {
            "batch_size": self.batch_size,
            "final_patch_size": patch_size,
            "label_manager": self.label_manager,
            "oversample_foreground_percent": self.oversample_foreground_percent,
            "probabilistic_oversampling": self.probabilistic_oversampling,
        }
        validation = self.get_validation_transforms(scales, **labels)
        val_loader = nnUNetDataLoader(val, patch_size=patch_size, transforms=validation, **options)
        kind, transforms = (nnUNetDataLoader, pipeline) if halves is None else (SampleDataLoader, halves.in_worker)
        train_loader = kind(train, patch_size=initial_patch_size, transforms=transforms, **options)
        train_batches = (
            self.in_background(train_loader) if halves is None else self.prefetched(train_loader, halves.on_device)
        )
        return train_batches, self.in_background(val_loader, validation=True)

    def in_background(self, loader: nnUNetDataLoader, validation: bool = False) -> Iterator[Batch]:
        """Batches of a loader from nnUNet_n_proc_DA processes, half as many for validation; or from this one for 0."""
        processes = get_allowed_n_proc_DA()
        if processes == 0:
            return SingleThreadedAugmenter(loader, None)
        if validation:
            processes = max(1, processes // 2)
        augmenter = NonDetMultiThreadedAugmenter(
            data_loader=loader,
            transform=None,
            num_processes=processes,
            num_cached=max(3, processes // 2),
            seeds=self.worker_seeds(processes),
            pin_memory=self.device.type == "cuda",
            wait_time=0.002,
        )
        next(augmenter)  # starts the workers, so that a fault in them shows before the first epoch
        return augmenter

    def worker_seeds(self, count: int) -> list[int] | None:
        """One a data worker; None: each draws its own."""
        return None

    # ------------------------------------------------------------------------------------------------ on the device

    def prefetched(self, loader: nnUNetDataLoader, on_device: BasicTransform) -> Prefetcher:
        """Batches of a loader of samples, augmented by `on_device`."""
        seed = self.augmentation_seed
        if seed is None:
            seed = np.random.SeedSequence().generate_state(1).item()
        batches = Prefetcher(self.in_background(loader), partial(self._augmented, on_device, seed), self.device)
        # When all of a step is on its way to the device, and nnU-Net has not yet waited for its loss.
        self.optimizer.register_step_post_hook(lambda *_: batches.look_ahead())
        return batches

    def _augmented(self, on_device: BasicTransform, seed: int, batch: Batch, number: int) -> Batch:
        origin = (seed, self.current_epoch, number, self.local_rank)
        with own_random_numbers(origin, self.device):
            samples = [on_device(**self.to_device(sample)) for sample in batch["samples"]]
        return {**self.collate(samples), "keys": batch["keys"]}

    def to_device(self, sample: Batch) -> Batch:
        moved = {"image", "segmentation"} & set(sample)
        return {**sample, **{name: sample[name].to(self.device, non_blocking=True) for name in moved}}

    def collate(self, samples: list[Batch]) -> Batch:
        """A batch as nnU-Net's `train_step` takes it."""
        segmentations = [sample["segmentation"] for sample in samples]
        several = isinstance(segmentations[0], list)  # resolutions, of deep supervision
        return {
            "data": torch.stack([sample["image"] for sample in samples]),
            "target": [*map(torch.stack, zip(*segmentations, strict=True))] if several else torch.stack(segmentations),
        }

    @property
    def batches_per_epoch(self) -> int:
        """As many are taken from the training's loader."""
        return self.num_iterations_per_epoch

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if isinstance(self.dataloader_train, Prefetcher):
            self.dataloader_train.begin_epoch(self.batches_per_epoch)

    def on_train_end(self) -> None:
        if isinstance(self.dataloader_train, Prefetcher):
            self.dataloader_train = self.dataloader_train.source  # whose workers nnU-Net ends
        super().on_train_end()

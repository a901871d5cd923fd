"""`-tr TopoMAEPretrainer`: co-trains a ViT and its partner on images alone."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from time import time
from typing import Any, TypeVar

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import join
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn

from nnunet_topomae.augmentation.random_streams import numpy_generator_kept
from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.data.crop_place import RandomPlace, Resample
from nnunet_topomae.data.dataloading import CropDataLoader, CropPositionDataLoader, collate_crops
from nnunet_topomae.data.unlabelled import JoinedDataset
from nnunet_topomae.files import write_json
from nnunet_topomae.losses.pretraining import CURVES, PretrainingLoss
from nnunet_topomae.losses.topology import topological_loss
from nnunet_topomae.monitoring.instruments import (
    NUM_CROPS,
    PRETRAINING_INSTRUMENTS,
    TOKEN_STD,
    PretrainingInstruments,
)
from nnunet_topomae.monitoring.panels import FOLDER, MAX_CASES, save_panels
from nnunet_topomae.monitoring.pictures import log_picture, never_fatal
from nnunet_topomae.monitoring.reconstructions import MAX_PICTURES, PretrainingEvaluation, mean_over_cases
from nnunet_topomae.networks.checkpointing import with_checkpoints
from nnunet_topomae.networks.copretrain import CoPretrainingNetwork
from nnunet_topomae.planning.blueprint import Blueprint, patch_holds_most_volumes, vit_config
from nnunet_topomae.pretext.masking import draw_masks
from nnunet_topomae.pretext.position import from_centre
from nnunet_topomae.private_names import curves
from nnunet_topomae.training.pretraining_step import (
    GRADIENTS,
    POINT_ERRORS,
    Batch,
    PretrainingStep,
    Readings,
)
from nnunet_topomae.training.schedule import ParameterGroup, WarmupCosineSchedule, adamw, peak_rates
from nnunet_topomae.training.start import StartedTrainer
from nnunet_topomae.training.unlabelled_cases import UnlabelledCasesTrainer
from nnunet_topomae.visualization.progress import save_progress_figure

VALIDATION_CROPS = 4  # a case
TRANSFORM_PROBABILITY = 0.2  # of rotation, and of scaling: nnU-Net's
TERMS_AND_ERRORS = (*CURVES, *POINT_ERRORS)

Value = TypeVar("Value")


class TopoMAEPretrainer(StartedTrainer, UnlabelledCasesTrainer):
    """Masked autoencoding with topology and position (docs/method.md). No label is read. What
    `NNUNET_TOPOMAE_PRETRAINED` names is learnt from on; the whole network is warmed up in any case (`schedule.py`).

    Validation cases are looked at for the curves and the final report only.
    """

    _best_ema: float | None
    phases = ("pre-training", "fine-tuning")
    divergence_remedy = "Lower NNUNET_TOPOMAE_PRETRAIN_LR"
    curve_names = (
        *(f"{phase}_{name}" for phase in ("train", "val") for name in TERMS_AND_ERRORS),
        *(f"train_{name}" for name in GRADIENTS),
        *PRETRAINING_INSTRUMENTS,
    )
    knob_of = UnlabelledCasesTrainer.knob_of | {"num_epochs": "pretrain_epochs", "initial_lr": "pretrain_lr"}

    def attributes_of(self, config: TopoMAEConfig) -> dict[str, Any]:
        return super().attributes_of(config) | {"initial_lr": peak_rates(config).pretrain}

    def change_defaults(self) -> None:
        super().change_defaults()
        self.folder_with_segs_from_previous_stage = None  # a cascade's second input is made from labels
        self.instruments: PretrainingInstruments | None = None

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Raises RuntimeError without deep supervision: only nnU-Net's prediction asks for a network without."""
        if not enable_deep_supervision:
            dataset, plans = shlex.quote(plans_manager.dataset_name), shlex.quote(plans_manager.plans_name)
            raise RuntimeError(
                "a network of TopoMAEPretrainer reconstructs images, it segments nothing. Fine-tune it first:\n"
                f"  nnUNetv2_train {dataset} CONFIGURATION FOLD -tr TopoMAEFinetuner -p {plans}\n"
                "then predict with -tr TopoMAEFinetuner"
            )
        config = TopoMAEConfig.from_plans(plans_manager.plans)
        image_channels = len(configuration_manager.normalization_schemes)  # without a cascade's one-hot channels
        blueprint = Blueprint.of(configuration_manager.configuration, config)
        network = CoPretrainingNetwork(image_channels, *blueprint)
        return with_checkpoints(network, blueprint.partner) if config.gradient_checkpointing else network

    def _build_loss(self) -> PretrainingLoss:
        config = self.config
        if config.weight_position and patch_holds_most_volumes(self.configuration_manager.configuration):
            self.print_to_log_file(
                "Position is left out: the patch holds most volumes, which lie in its middle, so that padding would "
                "tell all there is to know of the nine points"
            )
            config = replace(config, weight_position=0, weight_consistency_points=0)
        return PretrainingLoss(config, self.geometry)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupCosineSchedule]:
        network = self.plain_network
        vit_factor = peak_rates(self.config).vit_pretrain_factor
        groups = [
            ParameterGroup("partner", network.partner.parameters(), self.initial_lr),
            ParameterGroup("vit", network.vit.parameters(), vit_factor * self.initial_lr),
        ]
        optimizer = adamw(groups, self.weight_decay)
        return optimizer, self.schedule(optimizer)

    def initialize(self) -> None:
        super().initialize()
        self.step = PretrainingStep(
            self.network,
            self.plain_network,
            self.loss,
            self.optimizer,
            self.grad_scaler,
            self.config.mask_ratio,
            vit_config(self.config).views,
            self.configuration_manager.spacing,
            self.device,
        )
        self._validation_batches = count()

    @property
    def label_range(self) -> None:
        return None

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Reconstruction has no deep supervision."""

    # ------------------------------------------------------------------------------------------------ steps

    @property
    def vit_steps(self) -> int:
        """Steps of the ViT in each step, all but the first without its partner."""
        return vit_config(self.config).steps

    @property
    def batches_per_epoch(self) -> int:
        return self.num_iterations_per_epoch * self.vit_steps

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.step.seed_masks(self.config.seed, self.current_epoch, self.local_rank)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.step.seed_masks(self.config.seed, -1, self.local_rank)

    def train_step(self, batch: Batch) -> Readings:
        """The networks' common step, of which is logged, and those of the ViT alone, on crops of their own."""
        every = self.config.topology_every
        topology = every if self.lr_scheduler.current_step % every == 0 else 0
        others = (next(self.dataloader_train) for _ in range(self.vit_steps - 1))
        try:
            readings = self.step.train(batch, others, topology)
        except FloatingPointError as error:
            raise self.diverged(f"in epoch {self.current_epoch} {error}") from None
        self.lr_scheduler.advance()
        return readings

    def validation_step(self, batch: Batch) -> Readings:
        """With topology in one of `topology_every` batches, which count for the others in the mean of the losses."""
        with_topology = range(0, self.num_val_iterations_per_epoch, self.config.topology_every)
        number = next(self._validation_batches) % self.num_val_iterations_per_epoch
        times = self.num_val_iterations_per_epoch / len(with_topology)
        return self.step.validate(batch, times if number in with_topology else 0)

    # ------------------------------------------------------------------------------------------------ data

    def get_dataloaders(self) -> tuple[Iterator[Any], Iterator[Any]]:
        if self.config.weight_topology:
            self.load_topology_engine()
        patch_size = self.configuration_manager.patch_size
        rotation, in_plane, crop_size, _ = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        place = RandomPlace(crop_size, patch_size, rotation, in_plane, TRANSFORM_PROBABILITY, TRANSFORM_PROBABILITY)
        resample = Resample(patch_size)
        train, val = self.get_tr_and_val_datasets()
        self.validation_dataset = val
        halves = self.halves(resample)
        val_batches = self.in_background(self.crop_loader(val), validation=True)
        if halves is None:
            return self.in_background(self.crop_loader(train, place, resample)), val_batches
        loader = self.crop_loader(train, place, halves.in_worker, CropDataLoader)
        return self.prefetched(loader, halves.on_device), val_batches

    def crop_loader(
        self,
        dataset: JoinedDataset,
        place: RandomPlace | None = None,
        transforms: BasicTransform | None = None,
        loader_class: type[CropDataLoader] = CropPositionDataLoader,
    ) -> CropDataLoader:
        """Draws crops, which are neither rotated nor scaled without `place`."""
        patch_size = self.configuration_manager.patch_size
        crop_size = patch_size if place is None else place.crop_size
        sizes = self.batch_size, crop_size, patch_size
        return loader_class(dataset, *sizes, self.label_manager, transforms=transforms, random_place=place)

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch as of a `CropPositionDataLoader`."""
        return collate_crops(samples, self.configuration_manager.patch_size)

    @property
    def augments_previous_stage(self) -> bool:
        return False

    # ------------------------------------------------------------------------------------------------ curves

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.local_rank == 0:
            self.instruments = self._build_instruments()

    def _build_instruments(self) -> PretrainingInstruments:
        """On crops of the first validation cases, the same in every training; no random state is disturbed."""
        keys = sorted(self.do_split()[1])
        loader = self.crop_loader(self.dataset_of(keys))
        with numpy_generator_kept():
            np.random.seed(0)
            batch = self.collate([loader.draw_crop(keys[index % len(keys)]) for index in range(NUM_CROPS)])
        generator = torch.Generator().manual_seed(0)
        masks = draw_masks(NUM_CROPS, 1, self.geometry.num_tokens, self.config.mask_ratio, generator)
        shape, patch_size = batch["volume_shape"], torch.tensor(self.configuration_manager.patch_size)
        places = from_centre(batch["points"], shape, torch.tensor(self.configuration_manager.spacing))
        return PretrainingInstruments(batch["data"], places, shape < patch_size, masks, self.loss, self.batch_size)

    def on_train_epoch_end(self, train_outputs: list[Readings]) -> None:
        self._log("train", train_outputs, (*TERMS_AND_ERRORS, *GRADIENTS))

    def on_validation_epoch_end(self, val_outputs: list[Readings]) -> None:
        self._log("val", val_outputs, TERMS_AND_ERRORS)

    def _log(self, phase: str, outputs: list[Readings], names: Sequence[str]) -> None:
        of_ranks = self._gather(_means(outputs, ("loss", *names)))
        means = {name: float(np.mean([means[name] for means in of_ranks])) for name in of_ranks[0]}
        self.logger.log(f"{phase}_losses", means.pop("loss"), self.current_epoch)
        for name, value in means.items():
            self.logger.log(f"{phase}_{name}", value, self.current_epoch)

    def on_epoch_end(self) -> None:
        log = self.logger
        self._log_end_of_epoch()
        val_loss = log.get_value("val_losses", step=-1)
        if math.isfinite(val_loss) and (self._best_ema is None or val_loss < self._best_ema):
            self._best_ema = val_loss  # here the smallest validation loss: there is no Dice to average
            self.print_to_log_file(f"New best validation loss: {val_loss:.4f}")
            self.save_checkpoint(join(self.output_folder, "checkpoint_best.pth"))
        if self.local_rank == 0:
            file, names = Path(self.output_folder, "progress.png"), (*TERMS_AND_ERRORS, *GRADIENTS)
            with never_fatal(str(file), self.print_to_log_file):
                save_progress_figure(file, curves(log), names, PRETRAINING_INSTRUMENTS)
        self.current_epoch += 1
        self.save_latest()
        if self.config.panel_every and (self.current_epoch == 1 or self.current_epoch % self.config.panel_every == 0):
            self._save_panels(self.validation_dataset)

    def _save_panels(self, validation: JoinedDataset) -> None:
        """What the networks make of the same validation crops now, to the folder `progress` and to wandb."""
        if self.local_rank != 0:
            return
        self.network.eval()
        folder, cases = Path(self.output_folder, FOLDER), validation.identifiers[:MAX_CASES]
        with never_fatal(f"the panels in {folder}", self.print_to_log_file):
            pictures = save_panels(folder, self.current_epoch, self._evaluation(validation), cases)
            for case, picture in pictures.items():
                log_picture(self.logger.loggers, f"{FOLDER}/{case}", picture, self.current_epoch - 1)

    def _log_end_of_epoch(self) -> None:
        epoch, log = self.current_epoch, self.logger
        log.log("epoch_end_timestamps", time(), epoch)
        for phase in ("train", "val"):
            self.print_to_log_file(f"{phase}_loss", round(log.get_value(f"{phase}_losses", step=-1), 4))
        if self.instruments is not None:
            scale = self.grad_scaler.get_scale() if self.grad_scaler else 1.0
            readings = self.instruments.read(self.plain_network, self.device, scale)
            for name, value in readings.items():
                log.log(name, value, epoch)
            self.print_to_log_file(
                "  " + ", ".join(f"{name} {value:.3g}" for name, value in readings.items()), add_timestamp=False
            )
            self.warn_of_dead_vit(readings[TOKEN_STD], "vit_pretrain_lr_factor")
        for name in TERMS_AND_ERRORS:
            train, val = (log.get_value(f"{phase}_{name}", step=-1) for phase in ("train", "val"))
            if not (math.isnan(train) and math.isnan(val)):  # it was not computed: its weight is 0
                self.print_to_log_file(f"  {name:28} train {train:10.4g}  val {val:10.4g}", add_timestamp=False)

    # ------------------------------------------------------------------------------------------------ validation

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Instead of nnU-Net's segmentation of the validation cases: how well they are reconstructed and placed.

        Writes `validation/summary.json` and a picture of each of the first cases.
        """
        self.check_validation_alone()
        self.network.eval()
        _, val_keys = self.do_split()
        folder = Path(self.output_folder, "validation")
        folder.mkdir(exist_ok=True)
        validation = self.dataset_of(val_keys)
        if self.config.panel_every:
            self._save_panels(validation)
        evaluation = self._evaluation(validation)
        cases = []
        for index, key in list(enumerate(val_keys))[self.local_rank :: self._world_size]:
            self.print_to_log_file(f"reconstructing {key} ({index + 1} of {len(val_keys)})")
            case, first_crop = evaluation.case(key)
            cases.append(case)
            if index < MAX_PICTURES:
                picture = folder / f"{key}.png"
                with never_fatal(str(picture), self.print_to_log_file):
                    evaluation.draw(picture, key, first_crop)
        cases = [case for of_rank in self._gather(cases) for case in of_rank]
        if self.local_rank == 0:
            self._report_validation(folder, sorted(cases, key=lambda case: case["case"]))

    def _evaluation(self, validation: JoinedDataset) -> PretrainingEvaluation:
        return PretrainingEvaluation(
            self.plain_network,
            self.geometry,
            topological_loss(self.config, normalisation="none"),
            self.crop_loader(validation),
            self.config.mask_ratio,
            VALIDATION_CROPS,
            self.configuration_manager.spacing,
            self.device,
            bool(self.loss.weights["position"]),
        )

    def _report_validation(self, folder: Path, cases: list[dict[str, Any]]) -> None:
        mean = mean_over_cases(cases)
        file = write_json(folder / "summary.json", {"mean": mean, "metric_per_case": cases})
        for branch, metrics in mean.items():
            self.print_to_log_file(f"{branch}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
            for name, value in metrics.items():
                self.logger.log_summary(f"final_val/{branch}_{name}", value)
        self.print_to_log_file(f"Validation complete: {file}")

    @property
    def _world_size(self) -> int:
        return dist.get_world_size() if self.is_ddp else 1

    def _gather(self, value: Value) -> list[Value]:
        """The values of all ranks."""
        gathered = [value] * self._world_size
        if self.is_ddp:
            dist.all_gather_object(gathered, value)
        return gathered


def _means(outputs: list[Readings], names: Sequence[str]) -> dict[str, float]:
    """Over the steps that have the value; NaN where none has. One transfer from the device for all of them."""
    values = {name: [output[name] for output in outputs if name in output] for name in names}
    there = [name for name in names if values[name]]
    means = torch.stack([_mean(name, torch.stack(values[name])) for name in there]).tolist()
    return dict.fromkeys(names, math.nan) | dict(zip(there, means, strict=True))


def _mean(name: str, values: torch.Tensor) -> torch.Tensor:
    """A gradient that overflowed counts for nothing: the gradient scaler skips its step."""
    return values.where(values.isfinite(), math.nan).nanmean() if name in GRADIENTS else values.mean()

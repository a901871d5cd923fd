"""`-tr TopoMAEPretrainer`: co-trains a ViT and its partner on images alone."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from time import time

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import join, load_json, save_json
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn

from nnunet_topomae.augmentation.pipeline import split_pipeline
from nnunet_topomae.augmentation.random_streams import numpy_generator_kept
from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.data.augmentation import pretraining_transforms
from nnunet_topomae.data.case_facts import read_fingerprints
from nnunet_topomae.data.dataloading import (
    CropDataLoader,
    CropPositionDataLoader,
    CropSampleDataLoader,
    collate_crops,
    located,
)
from nnunet_topomae.data.recipe import preprocessing_recipe
from nnunet_topomae.data.unlabelled import (
    JoinedDataset,
    UnlabelledImages,
    advice,
    grouped,
    options_of,
)
from nnunet_topomae.evaluation.instruments import (
    NUM_CROPS,
    PRETRAINING_INSTRUMENTS,
    TOKEN_STD,
    PretrainingInstruments,
)
from nnunet_topomae.evaluation.panels import FOLDER, MAX_CASES, save_panels
from nnunet_topomae.evaluation.pretraining import MAX_PICTURES, PretrainingEvaluation, mean_over_cases
from nnunet_topomae.losses.position import point_distance
from nnunet_topomae.losses.pretraining import BRANCHES, TERMS, PretrainingLoss, topological_loss
from nnunet_topomae.networks.checkpointing import with_checkpoints
from nnunet_topomae.networks.copretrain import BranchOutput, CoPretrainingNetwork, CoPretrainingOutput
from nnunet_topomae.planning.blueprint import Blueprint, vit_config
from nnunet_topomae.pretext.masking import draw_masks
from nnunet_topomae.private_names import curves
from nnunet_topomae.training.base import TopoMAETrainer
from nnunet_topomae.training.early_topology import EarlyTopology
from nnunet_topomae.training.pictures import log_picture
from nnunet_topomae.training.precedence import KnobAttribute
from nnunet_topomae.training.schedule import ParameterGroup, WarmupCosineSchedule, adamw, peak_rates
from nnunet_topomae.visualization.progress import save_progress_figure

POINT_ERRORS = tuple(f"point_error_{branch}" for branch in BRANCHES)
GRADIENTS = tuple(f"{what}_{branch}" for what in ("gradient_norm", "clipped") for branch in BRANCHES)

MAX_GRADIENT_NORM = 1.0  # of each network, customary for transformers
VALIDATION_CROPS = 4  # a case
TRANSFORM_PROBABILITY = 0.2  # of rotation, and of scaling: nnU-Net's


class TopoMAEPretrainer(TopoMAETrainer):
    """Masked autoencoding with topology and position (docs/method.md). No label is read.

    The cases of a split's `train` list are trained on, and, where `splits_final.json` carries one, of its `unlabelled`
    list; so are the images that `nnunet-topomae add-unlabelled` has added. Validation cases are looked at for the
    curves and the final report only.
    """

    phases = ("pre-training", "fine-tuning")
    divergence_remedy = "Lower NNUNET_TOPOMAE_PRETRAIN_LR"
    curve_names = (
        *(f"{phase}_{name}" for phase in ("train", "val") for name in (*TERMS, *POINT_ERRORS)),
        *(f"train_{name}" for name in GRADIENTS),
        *PRETRAINING_INSTRUMENTS,
    )
    num_epochs = KnobAttribute("pretrain_epochs")
    initial_lr = KnobAttribute("pretrain_lr", lambda config: peak_rates(config).pretrain)

    def change_defaults(self) -> None:
        super().change_defaults()
        self.folder_with_segs_from_previous_stage = None  # a cascade's second input is made from labels
        self.mask_generator = torch.Generator()
        self.instruments: PretrainingInstruments | None = None
        self.current_step = 0

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
            dataset, plans = plans_manager.dataset_name, plans_manager.plans_name
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
        return PretrainingLoss(self.config, self.geometry)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupCosineSchedule]:
        network = self.plain_network
        vit_factor = peak_rates(self.config).vit_pretrain_factor
        groups = [
            ParameterGroup("partner", network.partner.parameters(), self.initial_lr),
            ParameterGroup("vit", network.vit.parameters(), vit_factor * self.initial_lr),
        ]
        optimizer = adamw(groups, self.weight_decay)
        return optimizer, self.schedule(optimizer)

    @property
    def label_range(self) -> None:
        return None

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Reconstruction has no deep supervision."""

    @property
    def vit_steps(self) -> int:
        return vit_config(self.config).steps

    # ------------------------------------------------------------------------------------------------ data

    @property
    def batches_per_epoch(self) -> int:
        return self.num_iterations_per_epoch * self.vit_steps

    def do_split(self) -> tuple[list[str], list[str]]:
        train_keys, val_keys = super().do_split()
        in_split = self._unlabelled_in_split()
        leaked = sorted(set(in_split) & set(val_keys))
        if leaked:
            raise ValueError(
                f"in splits_final.json, validation cases of fold {self.fold} are among the unlabelled: "
                f"{', '.join(leaked)}"
            )
        unlabelled = [*in_split, *self._added_without_label()]
        if unlabelled:
            self.print_to_log_file(f"Pre-training on {len(unlabelled)} unlabelled cases too.")
        return sorted({*train_keys, *unlabelled}), val_keys

    @property
    def added_images(self) -> UnlabelledImages:
        """What `nnunet-topomae add-unlabelled` has preprocessed."""
        return UnlabelledImages.of(self.preprocessed_dataset_folder_base, self.configuration_manager)

    def _added_without_label(self) -> list[str]:
        """Where an image got a label after it was added, the labelled case wins."""
        labelled = set(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))
        return [name for name in self.added_images.names if name not in labelled]

    def _unlabelled_in_split(self) -> list[str]:
        if self.fold == "all" or not self.splits_file.is_file():
            return []
        splits = load_json(str(self.splits_file))
        return splits[self.fold].get("unlabelled", []) if self.fold < len(splits) else []

    def get_tr_and_val_datasets(self):
        train_keys, val_keys = self.do_split()
        return self.dataset_of(train_keys), self.dataset_of(val_keys)

    def dataset_of(self, cases: Sequence[str]) -> JoinedDataset:
        """Cases with labels and cases without."""
        added = set(self._added_without_label())
        labelled = super().dataset_of([case for case in cases if case not in added])
        return JoinedDataset(cases, [labelled, self.added_images.dataset([case for case in cases if case in added])])

    def _check_data(self) -> None:
        self._check_added_images()
        super()._check_data()

    def _check_added_images(self) -> None:
        """Raises ValueError for images made by other plans than the labelled ones, or showing validation cases."""
        plans, images, names = self.plans_manager.plans, self.added_images, self._added_without_label()
        now_labelled = sorted(set(images.names) - set(names))
        if now_labelled:
            self.print_to_log_file(
                f"Not the added images, but the labelled cases are used of {', '.join(now_labelled)}"
            )
        recipe = preprocessing_recipe(plans, self.configuration_name, self.dataset_json)
        faults = {name: fault for name, fault in images.faults(recipe).items() if name in names}
        if faults:
            raise ValueError(
                f"unlabelled images in {images.folder} do not fit the labelled ones: {grouped(faults)}. "
                f"{advice(plans, self.configuration_name)}"
            )
        if not names:
            return
        val_keys = self.do_split()[1]
        validation = {voxels: case for case, voxels in read_fingerprints(self.dataset_of(val_keys), val_keys).items()}
        fingerprints = {name: images.record(name).fingerprint for name in names}
        copies = {name: validation[voxels] for name, voxels in fingerprints.items() if voxels in validation}
        if copies:
            raise ValueError(
                "unlabelled images are copies of validation cases "
                f"({', '.join(f'{name} of {case}' for name, case in copies.items())}). Take them out:\n"
                f"  nnunet-topomae remove-unlabelled {options_of(plans, self.configuration_name)} {shlex.join(copies)}"
            )

    def get_dataloaders(self):
        if self.config.weight_topology:
            self.load_topology_engine()
        patch_size = self.configuration_manager.patch_size
        rotation, in_plane_only, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        transforms = pretraining_transforms(
            patch_size,
            rotation,
            in_plane_only,
            TRANSFORM_PROBABILITY,
            TRANSFORM_PROBABILITY,
            mirror_axes if self.config.mirror else (),
        )
        train, val = self.get_tr_and_val_datasets()
        self.validation_dataset = val
        self.log_where_it_augments()
        val_batches = self.in_background(self._crop_loader(val, patch_size, None), validation=True)
        random_placement = self.config.random_placement
        if self.augments_on_device:
            in_worker, on_device = split_pipeline(transforms)
            loader = self._crop_loader(train, initial_patch_size, in_worker, random_placement, CropSampleDataLoader)
            return self.prefetched(loader, on_device), val_batches
        loader = self._crop_loader(train, initial_patch_size, transforms, random_placement)
        return self.in_background(loader), val_batches

    def _crop_loader(
        self,
        dataset,
        crop_size: Sequence[int],
        transforms,
        random_placement: bool = False,
        loader_class: type[CropDataLoader] = CropPositionDataLoader,
    ) -> CropDataLoader:
        return loader_class(
            dataset,
            self.batch_size,
            crop_size,
            self.configuration_manager.patch_size,
            self.label_manager,
            transforms=transforms,
            random_placement=random_placement,
        )

    def collate(self, samples: list[dict]) -> dict:
        """A batch as of a `CropPositionDataLoader`, and where it lies on the host: `data_on_host`."""
        samples = [located(sample, self.configuration_manager.patch_size) for sample in samples]
        batch = collate_crops(samples)
        return batch | {"data_on_host": batch["data"].to("cpu", non_blocking=True)}

    @property
    def augments_previous_stage(self) -> bool:
        return False

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.local_rank == 0:
            self.instruments = self._build_instruments()

    def _build_instruments(self) -> PretrainingInstruments:
        """On crops of the first validation cases, the same in every training; no random state is disturbed."""
        keys = sorted(self.do_split()[1])
        loader = self._crop_loader(self.dataset_of(keys), self.configuration_manager.patch_size, None)
        with numpy_generator_kept():
            np.random.seed(0)
            samples = [loader.draw_sample(keys[index % len(keys)]) for index in range(NUM_CROPS)]
        masks = draw_masks(
            NUM_CROPS, 1, self.geometry.num_tokens, self.config.mask_ratio, torch.Generator().manual_seed(0)
        )
        image, points = (torch.stack([sample[name] for sample in samples]) for name in ("data", "points"))
        return PretrainingInstruments(image, points, masks, self.loss, self.batch_size)

    # ------------------------------------------------------------------------------------------------ steps

    def initialize(self) -> None:
        super().initialize()
        self.early_topology = EarlyTopology(self.plain_network, self.loss)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.current_step = self.current_epoch * self.num_iterations_per_epoch
        self._seed_masks(self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._seed_masks(-1)  # the same masks in every epoch, so that curves are comparable

    def _seed_masks(self, epoch: int) -> None:
        if self.config.seed < 0 <= epoch:
            self.mask_generator.seed()  # anew; not those of another training in this process
        else:
            self.mask_generator.manual_seed(hash((self.config.seed, epoch, self.local_rank)) & 0x7FFFFFFFFFFF)

    def train_step(self, batch: dict) -> dict[str, torch.Tensor]:
        """The networks' common step, then those of the ViT alone, on crops of their own.

        Returns what is logged, of the first, left on the device: to read it would make the host wait.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss, terms = self._forward(batch)
        terms |= self._descend(loss, terms, BRANCHES)
        for _ in range(self.vit_steps - 1):
            self.optimizer.zero_grad(set_to_none=True)
            self._descend(*self._forward_vit(next(self.dataloader_train)), ("vit",))
        self.lr_scheduler.advance()
        self.current_step += 1
        return _detached(loss, terms)

    def _descend(
        self, loss: torch.Tensor, terms: dict[str, torch.Tensor], branches: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """One step of the optimiser, for these networks alone. Returns norms of their gradients (`_clip_gradients`)."""
        if self.grad_scaler is None and not torch.isfinite(loss):
            raise self.diverged(
                f"the loss is {loss.item()} in epoch {self.current_epoch} "
                f"({', '.join(f'{name} {value.item():g}' for name, value in terms.items())})"
            )
        scaler = self.grad_scaler or torch.amp.GradScaler(enabled=False)
        scaler.scale(loss).backward()
        for branch in set(BRANCHES).difference(branches):
            getattr(self.plain_network, branch).zero_grad(set_to_none=True)  # zeros, which decay would still act on
        scaler.unscale_(self.optimizer)
        readings = self._clip_gradients(branches)
        scaler.step(self.optimizer)
        scaler.update()
        return readings

    def _clip_gradients(self, branches: Sequence[str]) -> dict[str, torch.Tensor]:
        """Each network by itself: in a common norm the partner's gradient would decide how far the ViT may go.

        Returns the norms before, and whether they were clipped.
        """
        readings = {}
        for branch in branches:
            norm = nn.utils.clip_grad_norm_(getattr(self.plain_network, branch).parameters(), MAX_GRADIENT_NORM)
            readings |= {f"gradient_norm_{branch}": norm, f"clipped_{branch}": norm > MAX_GRADIENT_NORM}
        return readings

    def validation_step(self, batch: dict) -> dict[str, torch.Tensor]:
        return _detached(*self._forward(batch))

    def _forward(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The total loss, and everything that is logged by name."""
        topology_every = self.config.topology_every if self.network.training else 1
        target_diagrams = None
        if self.current_step % topology_every == 0:
            target_diagrams = self.loss.submit_target(batch.get("data_on_host", batch["data"]))
        image = batch["data"].to(self.device, non_blocking=True)
        points = batch["points"].to(self.device, non_blocking=True)
        volume_shape = batch["volume_shape"].to(self.device, non_blocking=True)
        masks_on_host = self._draw_masks(len(image))
        masks = masks_on_host.to(self.device, non_blocking=True)
        with self.early_topology.during(image, masks, target_diagrams) as pending, self.autocast():
            output: CoPretrainingOutput = self.network(image, masks_on_host)
        terms = self.loss(output, image, points, masks, target_diagrams, pending)
        total = self.loss.total(terms, topology_every)
        for name, branch in zip(POINT_ERRORS, output, strict=True):
            terms[name] = point_distance(branch.points[:, 0].detach().float(), points, volume_shape).mean()
        return total, terms

    def _forward_vit(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What the ViT learns without its partner: the loss, and its terms."""
        image, points = (batch[name].to(self.device, non_blocking=True) for name in ("data", "points"))
        masks = self._draw_masks(len(image))
        with self.autocast():
            output: BranchOutput = self.network(image, masks, with_partner=False)
        terms = self.loss.of_vit(output, image, points, masks.to(self.device, non_blocking=True))
        total = self.loss.total(terms)
        if self.is_ddp:  # which waits for a gradient of every parameter
            total = total + 0 * sum(parameter.sum() for parameter in self.plain_network.partner.parameters())
        return total, terms

    def _draw_masks(self, batch_size: int) -> torch.Tensor:
        config, num_tokens = self.config, self.geometry.num_tokens
        return draw_masks(batch_size, vit_config(config).views, num_tokens, config.mask_ratio, self.mask_generator)

    # ------------------------------------------------------------------------------------------------ curves

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        self._log("train", train_outputs)

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        self._log("val", val_outputs)

    def _log(self, phase: str, outputs: list[dict]) -> None:
        names = ("loss", *TERMS, *POINT_ERRORS, *(GRADIENTS if phase == "train" else ()))
        of_ranks = self._gather(_means(outputs, names))
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
            terms = (*TERMS, *POINT_ERRORS, *GRADIENTS)
            save_progress_figure(Path(self.output_folder, "progress.png"), curves(log), terms, PRETRAINING_INSTRUMENTS)
        self.current_epoch += 1
        self.save_latest()
        if self.config.panel_every and (self.current_epoch == 1 or self.current_epoch % self.config.panel_every == 0):
            self._save_panels(self.validation_dataset)

    def _save_panels(self, validation: JoinedDataset) -> None:
        """What the networks make of the same validation crops now, to the folder `progress` and to wandb."""
        if self.local_rank == 0:
            self.network.eval()
            folder, cases = Path(self.output_folder, FOLDER), validation.identifiers[:MAX_CASES]
            pictures = save_panels(folder, self.current_epoch, self._evaluation(validation), cases)
            for case, picture in pictures.items():
                log_picture(self.logger.loggers, f"{FOLDER}/{case}", picture, self.current_epoch - 1)

    def _log_end_of_epoch(self) -> None:
        epoch, log = self.current_epoch, self.logger
        log.log("epoch_end_timestamps", time(), epoch)
        for phase in ("train", "val"):
            self.print_to_log_file(f"{phase}_loss", round(log.get_value(f"{phase}_losses", step=-1), 4))
        if self.instruments is not None:
            readings = self.instruments.read(self.plain_network, self.device)
            for name, value in readings.items():
                log.log(name, value, epoch)
            self.print_to_log_file(
                "  " + ", ".join(f"{name} {value:.3g}" for name, value in readings.items()), add_timestamp=False
            )
            self.warn_of_dead_vit(readings[TOKEN_STD], "vit_pretrain_lr_factor")
        for name in (*TERMS, *POINT_ERRORS):
            train, val = (log.get_value(f"{phase}_{name}", step=-1) for phase in ("train", "val"))
            if not (math.isnan(train) and math.isnan(val)):  # it was not computed: its weight is 0
                self.print_to_log_file(f"  {name:28} train {train:10.4g}  val {val:10.4g}", add_timestamp=False)

    # ------------------------------------------------------------------------------------------------ validation

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Instead of nnU-Net's segmentation of the validation cases: how well they are reconstructed and placed.

        Writes `validation/summary.json` and a picture of each of the first cases.
        """
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
            cases.append(evaluation.case(key, folder / f"{key}.png" if index < MAX_PICTURES else None))
        cases = [case for of_rank in self._gather(cases) for case in of_rank]
        if self.local_rank == 0:
            self._report_validation(folder, sorted(cases, key=lambda case: case["case"]))

    def _evaluation(self, validation: JoinedDataset) -> PretrainingEvaluation:
        return PretrainingEvaluation(
            self.plain_network,
            self.loss,
            topological_loss(self.config, normalisation="none"),
            self._crop_loader(validation, self.configuration_manager.patch_size, None),
            self.config.mask_ratio,
            VALIDATION_CROPS,
            self.configuration_manager.spacing,
            self.device,
        )

    def _report_validation(self, folder: Path, cases: list[dict]) -> None:
        mean = mean_over_cases(cases)
        save_json({"mean": mean, "metric_per_case": cases}, str(folder / "summary.json"), sort_keys=False)
        for branch, metrics in mean.items():
            self.print_to_log_file(f"{branch}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
            for name, value in metrics.items():
                self.logger.log_summary(f"final_val/{branch}_{name}", value)
        self.print_to_log_file(f"Validation complete: {folder / 'summary.json'}")

    @property
    def _world_size(self) -> int:
        return dist.get_world_size() if self.is_ddp else 1

    def _gather(self, value) -> list:
        """The values of all ranks."""
        gathered = [value] * self._world_size
        if self.is_ddp:
            dist.all_gather_object(gathered, value)
        return gathered


def _detached(loss: torch.Tensor, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().float() for name, value in {"loss": loss, **terms}.items()}


def _means(outputs: list[dict[str, torch.Tensor]], names: Sequence[str]) -> dict[str, float]:
    """Over the steps that have the value; NaN where none has. One transfer from the device for all of them."""
    values = {name: [output[name] for output in outputs if name in output] for name in names}
    there = [name for name in names if values[name]]
    means = torch.stack([torch.stack(values[name]).mean() for name in there]).tolist()
    return dict.fromkeys(names, math.nan) | dict(zip(there, means, strict=True))

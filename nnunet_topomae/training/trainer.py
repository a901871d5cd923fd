"""What both trainers share: the knobs, the geometry, a look at the data, repeatable epochs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_topomae.config import PLANS_SECTION, TopoMAEConfig
from nnunet_topomae.data.checks import LabelRange, check_cases, check_none_missing, check_previous_stage
from nnunet_topomae.monitoring.instruments import is_dead
from nnunet_topomae.monitoring.pictures import never_fatal
from nnunet_topomae.planning.blueprint import geometry_of
from nnunet_topomae.planning.gpu_fit import GPUFit, gpu_memory
from nnunet_topomae.planning.plans_file import configuration_of
from nnunet_topomae.private_names import curves, init_args, untested_versions
from nnunet_topomae.topology import warm_up
from nnunet_topomae.training.device_augmentation import DeviceAugmentingTrainer
from nnunet_topomae.training.distributed import others_wait
from nnunet_topomae.training.divergence import StepCounter, all_finite, divergence, is_searching
from nnunet_topomae.training.leakage import CaseRecordingTrainer
from nnunet_topomae.training.precedence import ConfiguredTrainer
from nnunet_topomae.training.schedule import WarmupCosineSchedule

NUM_FOLDS = 5  # of the split that nnU-Net makes where splits_final.json has none


class TopoMAETrainer(DeviceAugmentingTrainer, CaseRecordingTrainer, ConfiguredTrainer):
    """Base of the pre-trainer and the fine-tuner.

    Attributes:
        divergence_remedy: what to change when a training diverges.
        asked_knobs: those that somebody has set, perhaps to their default.
        phases: this one and what comes after it, as `planning/memory.py` calls them.
        curve_names: of what is logged once an epoch, besides nnU-Net's own.

    Raises:
        ConfigError: a knob is unknown or has a bad value.
        ValueError: the configuration has no geometry for our networks (2d, patch too small).
    """

    divergence_remedy: str
    phases: tuple[str, ...] = ("fine-tuning",)
    curve_names: tuple[str, ...] = ()

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        config = TopoMAEConfig.resolve(plans)
        self.asked_knobs = TopoMAEConfig.asked(plans)
        plans[PLANS_SECTION] = config.to_section()
        self.geometry = geometry_of(configuration_of(plans, configuration).configuration)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.take_knobs(config)  # instead of what nnU-Net has set
        self.change_defaults()
        if untested := untested_versions():
            self.print_to_log_file(untested)
        self.print_to_log_file(f"{type(self).__name__} with these knobs:\n{self.config}", add_timestamp=False)

    def change_defaults(self) -> None:
        """Sets otherwise what nnU-Net's `__init__` has set; the last thing that ours does, before a subclass's."""
        self.save_every = math.inf  # not nnU-Net's checkpoint_latest every 50 epochs, but `save_latest`
        curves(self.logger).update({name: [] for name in self.curve_names})
        self.logger.plot_progress_png = partial(self._plot_progress, self.logger.plot_progress_png)

    def _plot_progress(self, plot: Callable[[str], None], folder: str) -> None:
        with never_fatal(f"{folder}/progress.png", self.print_to_log_file):
            plot(folder)

    def initialize(self) -> None:
        self.settle_knobs()
        if self.config.seed >= 0:
            torch.manual_seed(self.config.seed)
        super().initialize()

    def schedule(self, optimizer: torch.optim.Optimizer) -> WarmupCosineSchedule:
        """Of this training's length."""
        return WarmupCosineSchedule(optimizer, self.num_epochs, self.num_iterations_per_epoch)

    def load_topology_engine(self) -> None:
        """Before data workers start: not in the first step, nor while the process forks."""
        self.print_to_log_file("Loading the topology engine; its first use on a machine compiles it ...")
        warm_up()

    def warn_of_dead_vit(self, token_std: float, knob: str) -> None:
        """Where the ViT has come to say the same everywhere, its knob is to be turned."""
        if is_dead(token_std):
            self.print_to_log_file(
                f"WARNING: the ViT gives nearly the same features for every token (their standard deviation is "
                f"{token_std:.2g}, in health 0.5 to 0.8): it adds nothing. Lower NNUNET_TOPOMAE_{knob.upper()}"
            )

    @property
    def plain_network(self) -> Any:
        """The network without the wrappers of DDP and torch.compile."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    @property
    def splits_file(self) -> Path:
        """Where nnU-Net keeps the folds."""
        return Path(self.preprocessed_dataset_folder_base, "splits_final.json")

    def do_split(self) -> tuple[list[str], list[str]]:
        """As nnU-Net's, with an error that says what to do where there are too few cases to split."""
        if self.fold != "all" and not self.splits_file.is_file():
            folder = self.preprocessed_dataset_folder
            num_cases = len(infer_dataset_class(folder).get_identifiers(folder))
            if num_cases < NUM_FOLDS:
                raise ValueError(
                    f"{folder} holds {num_cases} cases, too few for nnU-Net's {NUM_FOLDS}-fold split. Write a split, "
                    f'[{{"train": [...], "val": [...]}}, ...], to {self.splits_file}, or train on all cases: fold all'
                )
        return super().do_split()

    def on_train_start(self) -> None:
        self._refuse_to_mix_architectures()
        if self.initial_lr == 0:
            self.print_to_log_file("The learning rate is 0: the weights will stay as they are")
        if not self.was_initialized:
            self.initialize()
        with others_wait() if self.is_ddp else nullcontext():  # also for the split, which the first may write
            if self.local_rank == 0:
                self.remove_partial_checkpoints()
                self._compare_with_gpu()
                self._check_data()
        self.validation_was_checked = True
        super().on_train_start()

    def run_training(self) -> None:
        """As nnU-Net's; an error of memory says what fits the GPU."""
        try:
            super().run_training()
        except torch.cuda.OutOfMemoryError as error:
            advice = "" if self._gpu_fit is None else f"\n{self._gpu_fit.advice()}"
            raise torch.cuda.OutOfMemoryError(f"{error}{advice}") from error

    def _compare_with_gpu(self) -> None:
        """Says before a training on a GPU if its memory will hardly do."""
        if self._gpu_fit is not None and not self._gpu_fit.fits:
            self.print_to_log_file(f"WARNING: the GPU may be too small. {self._gpu_fit.advice()}")

    @property
    def _gpu_fit(self) -> GPUFit | None:
        memory = gpu_memory(self.device)
        if memory is None:
            return None
        plans, name = self.plans_manager.plans, self.configuration_name
        return GPUFit(plans, self.dataset_json, name, self.config, self.phases, self.batch_size, memory)

    @property
    def label_range(self) -> LabelRange | None:
        """What the labels that this trainer reads may be; None if it reads none."""
        manager = self.label_manager
        return LabelRange(-1, max([*manager.all_labels, *([manager.ignore_label] if manager.has_ignore_label else [])]))

    def _check_data(self) -> None:
        check_none_missing(self.dataset_class, self.preprocessed_dataset_folder)
        train_keys, val_keys = self.do_split()
        for name, cases in (("training", train_keys), ("validation", val_keys)):
            if not cases:
                raise ValueError(
                    f"fold {self.fold} has no {name} case: list at least one in splits_final.json, or use fold all"
                )
        keys = sorted({*train_keys, *val_keys})
        previous_stage = self.folder_with_segs_from_previous_stage
        if previous_stage is not None:
            check_previous_stage(previous_stage, keys, self._previous_stage_command())
        if self.current_epoch == 0:  # else it goes on: every case was read at the start, which takes long for many
            constant = check_cases(self.dataset_of(keys), keys, self.label_range)
            if constant:
                names = ", ".join(constant)
                self.print_to_log_file(f"The image is constant, so that nothing can be learnt from: {names}")
        self.record_training_cases(train_keys)
        self.refuse_seen_validation_cases()

    def dataset_of(self, cases: Sequence[str]) -> nnUNetBaseDataset:
        """Preprocessed cases by name."""
        return self.dataset_class(
            self.preprocessed_dataset_folder, list(cases), self.folder_with_segs_from_previous_stage
        )

    def _previous_stage_command(self) -> str:
        """What writes the segmentations that a cascade's second stage reads."""
        plans, configuration = self.plans_manager, self.configuration_manager
        options = ("FOLD", "-tr", type(self).__name__, "-p", plans.plans_name)
        return shlex.join(["nnUNetv2_train", plans.dataset_name, configuration.previous_stage_name, *options])

    def on_epoch_start(self) -> None:
        self._seed_epoch()
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._steps = StepCounter(self.optimizer)

    def on_validation_epoch_start(self) -> None:
        self._refuse_divergence(self._steps.stop())
        super().on_validation_epoch_start()

    def _refuse_divergence(self, steps_taken: int) -> None:
        """Raises FloatingPointError after an epoch of which nothing good can come.

        A gradient scaler skips a step whose loss is not finite, which may come once; not in two epochs running.
        """
        *before, loss = self.logger.get_value("train_losses", step=None)[-2:]
        may_be_skipped = bool(self.grad_scaler and steps_taken) and all(map(math.isfinite, before))
        if not math.isfinite(loss) and not may_be_skipped:
            raise self.diverged(f"the mean loss of epoch {self.current_epoch} is {loss}")
        if self.grad_scaler and not steps_taken and not is_searching(self.grad_scaler, self.optimizer):
            raise self.diverged(
                f"no step was taken in epoch {self.current_epoch}: the gradient scaler skipped all "
                f"{self.batches_per_epoch}, since gradients are not finite"
            )

    def diverged(self, what: str) -> FloatingPointError:
        """The error for a training that has diverged."""
        return divergence(what, self.divergence_remedy, self.output_folder)

    def save_checkpoint(self, filename: str) -> None:
        """As nnU-Net's, whole or not at all, and only of weights that are finite. Raises FloatingPointError."""
        if self.local_rank == 0 and not all_finite(self.plain_network.state_dict().values()):
            raise self.diverged(f"weights are NaN or infinite in epoch {self.current_epoch}")
        super().save_checkpoint(filename)

    def _seed_epoch(self) -> None:
        """With a seed an epoch depends on (seed, epoch, rank), not on what was drawn before it: `--c` repeats it."""
        if self.config.seed >= 0:
            seed = self.epoch_seeds(1)[0]
            torch.manual_seed(seed)
            np.random.seed(seed)  # nnU-Net's loader and the augmentation draw from NumPy's global generator

    @property
    def augment_on(self) -> str:  # type: ignore[override]
        return self.config.augment_on

    @property
    def augmentation_seed(self) -> int | None:  # type: ignore[override]
        return self.config.seed if self.config.seed >= 0 else None

    def worker_seeds(self, count: int) -> list[int] | None:
        return self.epoch_seeds(count) if self.config.seed >= 0 else None

    def epoch_seeds(self, count: int) -> list[int]:
        """`count` 32-bit numbers made from (seed, epoch, rank)."""
        origin = (self.config.seed, self.current_epoch, self.local_rank)
        return np.random.SeedSequence(origin).generate_state(count).tolist()

    def plot_network_architecture(self) -> None:
        """nnU-Net draws its own networks with a package that knows no attention; nothing to draw here."""

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        if "cases_seen" not in init_args(self):
            self.record_cases_seen(filename_or_checkpoint, None)
        init_args(self)["plans"] = self.plans_manager.plans  # the next checkpoint records the knobs in force
        for name in self.curve_names:  # nnU-Net's logger wants a value an epoch; an older version logged fewer curves
            curves(self.logger).setdefault(name, [math.nan] * self.current_epoch)

    def _refuse_to_mix_architectures(self) -> None:
        """Folds of one results folder share its plans.json, from which prediction rebuilds the network."""
        folder = Path(self.output_folder_base)
        others = [path for path in folder.glob("fold_*/checkpoint_*.pth") if path.parent != Path(self.output_folder)]
        if others and (folder / "plans.json").is_file():
            theirs = TopoMAEConfig.from_plans(load_json(str(folder / "plans.json")))
            self.refuse_other_architecture(theirs, f"{folder} holds folds")

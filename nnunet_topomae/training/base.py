"""What both trainers share: the knobs, the geometry, a look at the data, repeatable epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import distributed as dist
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_topomae.config import PLANS_SECTION, TopoMAEConfig
from nnunet_topomae.data.checks import LabelRange, check_cases, check_none_missing, check_previous_stage
from nnunet_topomae.networks.geometry import Geometry, geometry_from_plan
from nnunet_topomae.planning.plans_file import configuration_of
from nnunet_topomae.training.checkpoint import read_trusted_checkpoint
from nnunet_topomae.training.device_augmentation import DeviceAugmentingTrainer
from nnunet_topomae.training.resumable import ResumableTrainer

NUM_FOLDS = 5  # of the split that nnU-Net makes where splits_final.json has none


class TopoMAETrainer(DeviceAugmentingTrainer, ResumableTrainer):
    """Base of the pre-trainer and the fine-tuner.

    Attributes:
        architecture_knobs: the knobs that shape the network, in which all folds of a results folder must agree.

    Raises:
        ConfigError: a knob is unknown or has a bad value.
        ValueError: the configuration has no geometry for our networks (2d, patch too small).
    """

    architecture_knobs: tuple[str, ...] = ("preset", "layer_scale")

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        self.config = TopoMAEConfig.resolve(plans)
        plans[PLANS_SECTION] = self.config.to_section()
        self.geometry = geometry_of(configuration_of(plans, configuration))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.apply_knobs()
        self.print_to_log_file(f"{type(self).__name__} with these knobs:\n{self.config}", add_timestamp=False)

    def apply_knobs(self) -> None:
        """Sets nnU-Net's own attributes from the knobs; the last thing that `__init__` does."""
        self.num_iterations_per_epoch = self.config.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.config.val_iterations_per_epoch
        self.weight_decay = self.config.weight_decay
        self.save_every = math.inf  # not nnU-Net's checkpoint_latest every 50 epochs, but `save_latest`

    def initialize(self) -> None:
        if self.config.seed >= 0:
            torch.manual_seed(self.config.seed)
        super().initialize()

    @property
    def plain_network(self) -> nn.Module:
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
        if not self.was_initialized:
            self.initialize()
        if self.local_rank == 0:
            self.remove_partial_checkpoints()
            self._check_data()
        if self.is_ddp:
            dist.barrier()  # rank 0 may have written the split that the others are about to read
        super().on_train_start()

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
        if self.current_epoch > 0:
            return  # goes on after an interruption: every case was read at the start, which takes long for many
        constant = check_cases(self.dataset_of(keys), keys, self.label_range)
        if constant:
            self.print_to_log_file(f"The image is constant, so that nothing can be learnt from: {', '.join(constant)}")

    def dataset_of(self, cases: Sequence[str]) -> nnUNetBaseDataset:
        """Preprocessed cases by name."""
        return self.dataset_class(
            self.preprocessed_dataset_folder, list(cases), self.folder_with_segs_from_previous_stage
        )

    def _previous_stage_command(self) -> str:
        """What writes the segmentations that a cascade's second stage reads."""
        plans, configuration = self.plans_manager, self.configuration_manager
        return (
            f"nnUNetv2_train {plans.dataset_name} {configuration.previous_stage_name} FOLD "
            f"-tr {type(self).__name__} -p {plans.plans_name}"
        )

    def on_epoch_start(self) -> None:
        self._seed_epoch()
        super().on_epoch_start()

    def _seed_epoch(self) -> None:
        """With a seed an epoch depends on (seed, epoch, rank), not on what was drawn before it: `--c` repeats it."""
        if self.config.seed >= 0:
            seed = self.epoch_seeds(1)[0]
            torch.manual_seed(seed)
            np.random.seed(seed)  # nnU-Net's loader and the augmentation draw from NumPy's global generator

    @property
    def augment_on(self) -> str:
        return self.config.augment_on

    @property
    def augmentation_seed(self) -> int | None:
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
        """As nnU-Net's. Knobs are those of the checkpoint, unless the environment sets them."""
        if not self.was_initialized:
            self._take_knobs_from(filename_or_checkpoint)
        super().load_checkpoint(filename_or_checkpoint)
        self.my_init_kwargs["plans"] = self.plans_manager.plans  # the next checkpoint records the knobs in force

    def _take_knobs_from(self, checkpoint: str) -> None:
        plans = read_trusted_checkpoint(checkpoint)["init_args"]["plans"]
        config = TopoMAEConfig.resolve(plans)
        self._refuse_other_architecture(config, TopoMAEConfig.from_plans(plans), f"{checkpoint} was")
        if config != self.config:
            self.print_to_log_file(f"Knobs of {checkpoint} and the environment:\n{config}", add_timestamp=False)
        self.config = config
        self.plans_manager.plans[PLANS_SECTION] = config.to_section()
        self.apply_knobs()

    def _refuse_to_mix_architectures(self) -> None:
        """Folds of one results folder share its plans.json, from which prediction rebuilds the network."""
        folder = Path(self.output_folder_base)
        others = [path for path in folder.glob("fold_*/checkpoint_*.pth") if path.parent != Path(self.output_folder)]
        if others and (folder / "plans.json").is_file():
            theirs = TopoMAEConfig.from_plans(load_json(str(folder / "plans.json")))
            self._refuse_other_architecture(self.config, theirs, f"{folder} holds folds")

    def _refuse_other_architecture(self, ours: TopoMAEConfig, theirs: TopoMAEConfig, subject: str) -> None:
        for knob in self.architecture_knobs:
            here, there = getattr(ours, knob), getattr(theirs, knob)
            if here != there:
                raise ValueError(
                    f"{subject} trained with {knob} = {there!r}, this run has {here!r}. They must agree: set "
                    f"NNUNET_TOPOMAE_{knob.upper()}={there}, or train with plans of another name (-p)."
                )


def geometry_of(configuration: ConfigurationManager) -> Geometry:
    """The geometry of both networks for one configuration of a plan. Raises ValueError that says what is wrong."""
    try:
        patch_size, strides = configuration.patch_size, configuration.pool_op_kernel_sizes
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the configuration in the plans has no patch_size or no architecture.arch_kwargs.strides ({error!r}): "
            "plan the dataset again with nnUNetv2_plan_experiment"
        ) from error
    return geometry_from_plan(patch_size, strides)


def vit_options(config: TopoMAEConfig) -> dict[str, float | None]:
    """Arguments of both networks for their ViT encoder."""
    return {"drop_path_rate": config.drop_path_rate, "layer_scale": config.layer_scale or None}

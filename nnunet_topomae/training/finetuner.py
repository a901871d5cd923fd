"""`-tr TopoMAEFinetuner`: segments with the pre-trained ViT encoder fused into the pre-trained UNETR++."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from batchgenerators.utilities.file_and_folder_operations import isfile, join
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks.checkpointing import with_checkpoints
from nnunet_topomae.networks.hybrid import HybridSegmentationNetwork
from nnunet_topomae.networks.presets import PRESETS
from nnunet_topomae.training.base import TopoMAETrainer, geometry_of, vit_options
from nnunet_topomae.training.checkpoint import read_checkpoint, refuse_pretraining_checkpoint, weights_option
from nnunet_topomae.training.schedule import WarmupCosineSchedule, adamw, peak_lr

DEEP_SUPERVISION_WEIGHTS = (4 / 7, 2 / 7, 1 / 7)  # UNETR++, Shaker et al. 2024
FROM_SCRATCH = "none"


class TopoMAEFinetuner(TopoMAETrainer):
    """nnU-Net's loss, augmentation and validation around our hybrid network.

    The pre-trained checkpoint is the one of the same dataset, plans, configuration and fold, or the one that
    `NNUNET_TOPOMAE_PRETRAINED` names. With `none` an object of this class is a `TopoMAEFinetunerFromScratch`.
    """

    architecture_knobs = (*TopoMAETrainer.architecture_knobs, "fusion")

    def __new__(cls, plans: dict, *args, **kwargs) -> TopoMAEFinetuner:
        from_scratch = cls is TopoMAEFinetuner and TopoMAEConfig.resolve(plans).pretrained == FROM_SCRATCH
        return super().__new__(TopoMAEFinetunerFromScratch if from_scratch else cls)

    def apply_knobs(self) -> None:
        super().apply_knobs()
        self.num_epochs = self.config.finetune_epochs
        self.initial_lr = peak_lr(self.config.finetune_lr, PRESETS[self.config.preset].finetune_lr)

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        config = TopoMAEConfig.from_plans(plans_manager.plans)
        network = HybridSegmentationNetwork(
            num_input_channels,
            num_output_channels,
            geometry_of(configuration_manager),
            PRESETS[config.preset],
            deep_supervision=enable_deep_supervision,
            fusion=config.fusion,
            **vit_options(config),
        )
        return with_checkpoints(network) if config.gradient_checkpointing else network

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        return self.geometry.deep_supervision_scales if self.enable_deep_supervision else None

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        if self.enable_deep_supervision:
            loss.weight_factors = DEEP_SUPERVISION_WEIGHTS
        return loss

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupCosineSchedule]:
        pretrained = [parameter for _, parameter in self.plain_network.pretrained_parameters()]
        known = set(pretrained)
        new = [parameter for parameter in self.network.parameters() if parameter not in known]
        factor = self.config.pretrained_lr_factor if self.uses_pretraining else 1.0
        optimizer = adamw([(new, self.initial_lr), (pretrained, factor * self.initial_lr)], self.weight_decay)
        return optimizer, WarmupCosineSchedule(optimizer, self.num_epochs, self.config.warmup_fraction)

    @property
    def uses_pretraining(self) -> bool:
        return True

    @property
    def label_channels(self) -> int:
        """Input channels after those of the image: a cascade's previous segmentation, one channel a label."""
        return self.num_input_channels - len(self.configuration_manager.normalization_schemes)

    def initialize(self) -> None:
        named = weights_option(sys.argv)
        if named is not None:
            refuse_pretraining_checkpoint(named)
        super().initialize()

    def on_train_start(self) -> None:
        if not self.was_initialized:  # nnU-Net initialises earlier only to load weights: --c or -pretrained_weights
            checkpoint = self.find_pretrained_checkpoint() if self.uses_pretraining else None
            self.initialize()
            if checkpoint is not None:
                self._load_pretrained(checkpoint)
        super().on_train_start()

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self.save_latest()

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        self.plain_network.decoder.deep_supervision = enabled

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """As nnU-Net's, but without DDP: in each forward it waits for all ranks, whose numbers of tiles differ."""
        wrapped = self.network
        if self.is_ddp:
            self.network = wrapped.module
        super().perform_actual_validation(save_probabilities)
        self.network = wrapped

    def find_pretrained_checkpoint(self) -> Path:
        """Raises FileNotFoundError that gives the command to run."""
        if self.config.pretrained:
            named = Path(self.config.pretrained)
            if not named.is_file():
                raise FileNotFoundError(f"NNUNET_TOPOMAE_PRETRAINED names {named}, and there is no such file")
            return named
        plans_name, dataset = self.plans_manager.plans_name, self.plans_manager.dataset_name
        folder = join(
            nnUNet_results, dataset, f"TopoMAEPretrainer__{plans_name}__{self.configuration_name}", f"fold_{self.fold}"
        )
        if isfile(join(folder, "checkpoint_final.pth")):
            return Path(folder, "checkpoint_final.pth")
        unfinished = any(isfile(join(folder, f"checkpoint_{name}.pth")) for name in ("latest", "best"))
        command = (
            f"nnUNetv2_train {dataset} {self.configuration_name} {self.fold} -tr TopoMAEPretrainer -p {plans_name}"
        )
        raise FileNotFoundError(
            f"no pre-trained checkpoint at {join(folder, 'checkpoint_final.pth')}. "
            + (
                f"Its training has not ended; go on with:\n  {command} --c"
                if unfinished
                else f"Run first:\n  {command}"
            )
            + "\nor set NNUNET_TOPOMAE_PRETRAINED to another checkpoint, or to 'none' to train from scratch."
        )

    def _load_pretrained(self, file: Path) -> None:
        self.print_to_log_file(f"Pre-trained weights: {file}")
        checkpoint = read_checkpoint(file)
        try:
            report = self.plain_network.load_pretrained(checkpoint.weights, self.label_channels)
        except ValueError as error:
            raise ValueError(f"{file} does not fit this network (preset '{self.config.preset}'): {error}") from error
        self.print_to_log_file(str(report), add_timestamp=False)
        if checkpoint.origin is None:
            self.print_to_log_file("  the checkpoint does not say what it was pre-trained on", add_timestamp=False)
            return
        for difference in checkpoint.origin.differences(self.plans_manager.plans, self.configuration_manager):
            self.print_to_log_file(f"  other {difference}", add_timestamp=False)


class TopoMAEFinetunerFromScratch(TopoMAEFinetuner):
    """The same network, losses and schedule without pre-training: the baseline.

    nnU-Net names results folders by the trainer's class, and finds a trainer again by the name in the checkpoint, so a
    class of its own is what keeps the two kinds of model apart everywhere.
    """

    @property
    def uses_pretraining(self) -> bool:
        return False

"""`-tr TopoMAEFinetuner`: segments with the pre-trained ViT encoder fused into its pre-trained partner."""

from __future__ import annotations

import math
import shlex
import sys
from copy import deepcopy
from statistics import fmean
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import isfile, join
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_topomae.config import TopoMAEConfig, environment_name
from nnunet_topomae.hub import Weights, local_weights
from nnunet_topomae.losses.segmentation import SegmentationLoss
from nnunet_topomae.losses.topology import topological_loss
from nnunet_topomae.monitoring.instruments import (
    FINETUNING_INSTRUMENTS,
    LABEL_SHARE,
    TOKEN_STD,
    cosines,
    label_share,
    token_std,
)
from nnunet_topomae.networks.axes import axes_order, reorder_axes
from nnunet_topomae.networks.checkpointing import with_checkpoints
from nnunet_topomae.networks.hybrid import HybridSegmentationNetwork
from nnunet_topomae.networks.pretrained import LoadReport
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.private_names import init_args, named_weights, set_deep_supervision_weights
from nnunet_topomae.training.checkpoint import Checkpoint, read_pretraining, refuse_pretraining_checkpoint
from nnunet_topomae.training.provenance import extended
from nnunet_topomae.training.schedule import ParameterGroup, WarmupCosineSchedule, adamw, peak_rates
from nnunet_topomae.training.trainer import TopoMAETrainer

FROM_SCRATCH = "none"
TRAIN_TOPOLOGY = "train_topology"
# Part of the training after which shape counts: before, a probability has hundreds of components that mean nothing.
TOPOLOGY_FROM = 0.3


class TopoMAEFinetuner(TopoMAETrainer):
    """nnU-Net's loss, augmentation and validation around our hybrid network.

    The pre-trained checkpoint is the one of the same dataset, plans, configuration and fold, or the one that
    `NNUNET_TOPOMAE_PRETRAINED` names. With `none` an object of this class is a `TopoMAEFinetunerFromScratch`.
    """

    network: Any
    divergence_remedy = "Lower NNUNET_TOPOMAE_FINETUNE_LR"
    architecture_knobs = (*TopoMAETrainer.architecture_knobs, "fusion")
    curve_names = (*FINETUNING_INSTRUMENTS, TRAIN_TOPOLOGY)
    knob_of = TopoMAETrainer.knob_of | {"num_epochs": "finetune_epochs", "initial_lr": "finetune_lr"}

    def __new__(cls, plans: dict[str, Any], *args: Any, **kwargs: Any) -> TopoMAEFinetuner:
        from_scratch = cls is TopoMAEFinetuner and TopoMAEConfig.resolve(plans).pretrained == FROM_SCRATCH
        return super().__new__(TopoMAEFinetunerFromScratch if from_scratch else cls)

    def attributes_of(self, config: TopoMAEConfig) -> dict[str, Any]:
        return super().attributes_of(config) | {"initial_lr": peak_rates(config).finetune}

    def change_defaults(self) -> None:
        super().change_defaults()
        self.pretrained_weights: dict[str, list[torch.Tensor]] = {}
        self.instrument_image: torch.Tensor | None = None

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        config = TopoMAEConfig.from_plans(plans_manager.plans)
        blueprint = Blueprint.of(configuration_manager.configuration, config)
        network = HybridSegmentationNetwork(
            num_input_channels, num_output_channels, *blueprint, enable_deep_supervision, config.fusion
        )
        return with_checkpoints(network, blueprint.partner) if config.gradient_checkpointing else network

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        return self.plain_network.deep_supervision_scales if self.enable_deep_supervision else None

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        weights = self.plain_network.deep_supervision_weights
        if self.enable_deep_supervision and weights is not None:
            set_deep_supervision_weights(loss, weights)
        if not self.config.finetune_weight_topology:
            return loss
        topology = topological_loss(self.config, "none")
        return SegmentationLoss(loss, topology, self.label_manager)

    def _topology_weight(self) -> float:
        """Of the topological loss in this step."""
        step, every = self.lr_scheduler.current_step, self.config.topology_every
        is_due = step >= TOPOLOGY_FROM * self.lr_scheduler.num_steps and step % every == 0
        return every * self.config.finetune_weight_topology if is_due else 0.0

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupCosineSchedule]:
        rates = {"new": 1.0, "partner": 1.0, "vit": peak_rates(self.config).vit_finetune_factor}
        parts = self.plain_network.parts()
        groups = [ParameterGroup(name, parts[name], rate * self.initial_lr) for name, rate in rates.items()]
        optimizer = adamw(groups, self.weight_decay)
        return optimizer, self.schedule(optimizer)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.loss, SegmentationLoss):
            self.loss.topology_weight = self._topology_weight()
        output = super().train_step(batch)
        if self.grad_scaler is None and not math.isfinite(output["loss"]):
            raise self.diverged(f"the loss is {output['loss']} in epoch {self.current_epoch}")
        self.lr_scheduler.advance()
        return output

    @property
    def uses_pretraining(self) -> bool:
        return True

    @property
    def label_channels(self) -> int:
        """Input channels after those of the image: a cascade's previous segmentation, one channel a label."""
        return self.num_input_channels - len(self.configuration_manager.normalization_schemes)

    def initialize(self) -> None:
        named = named_weights(sys.argv)
        if named is not None:
            refuse_pretraining_checkpoint(named)
        super().initialize()

    def on_train_start(self) -> None:
        if not self.was_initialized:  # nnU-Net initialises earlier only to load weights: --c or -pretrained_weights
            checkpoint = self.find_pretrained_checkpoint() if self.uses_pretraining else None
            self.initialize()
            if checkpoint is not None:
                self._load_pretrained(checkpoint)
        elif self.current_epoch > 0 and self.uses_pretraining:
            self._recall_pretrained_weights()
        if isinstance(self.loss, SegmentationLoss):
            self.load_topology_engine()
        super().on_train_start()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end(train_outputs)
        topology = math.nan
        if isinstance(self.loss, SegmentationLoss):
            self.loss.topology_weight = 0.0  # validation's loss is nnU-Net's
            if self.loss.topology_terms:
                topology = fmean(self.loss.topology_terms)
                self.loss.topology_terms.clear()
                self.print_to_log_file(f"topological loss {topology:.3g}")
        self.logger.log(TRAIN_TOPOLOGY, topology, self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.instrument_image = None

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.instrument_image is None:
            self.instrument_image = batch["data"]
        return super().validation_step(batch)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        for name, value in self._read_instruments().items():
            self.logger.log(name, value, self.current_epoch)

    def _read_instruments(self) -> dict[str, float]:
        """By the names of `FINETUNING_INSTRUMENTS`; NaN for what there is not, be it a ViT or pre-trained weights."""
        network = self.plain_network
        readings = dict.fromkeys(FINETUNING_INSTRUMENTS, math.nan)
        distances = cosines(network.parts(), self.pretrained_weights)
        readings |= {f"cosine_{name}": cosine for name, cosine in distances.items()}
        if network.vit is not None and self.instrument_image is not None:
            image = self.instrument_image.to(self.device)
            self.set_deep_supervision_enabled(False)
            with torch.no_grad(), torch.autocast("cuda", enabled=self.device.type == "cuda"):
                readings[TOKEN_STD] = token_std(network.vit(image))
                readings[LABEL_SHARE] = label_share(network, image, self.label_manager.has_regions)
            self.set_deep_supervision_enabled(self.enable_deep_supervision)
            self.warn_of_dead_vit(readings[TOKEN_STD], "vit_finetune_lr_factor")
        self.print_to_log_file(", ".join(f"{name} {value:.3g}" for name, value in readings.items()))
        return readings

    def _recall_pretrained_weights(self) -> None:
        """For a training that goes on after an interruption, from the checkpoint that it began with."""
        try:
            checkpoint = read_pretraining(self.find_pretrained_checkpoint().path)
            network = deepcopy(self.plain_network)
            self._fill(network, checkpoint)
        except (OSError, ValueError) as error:
            self.print_to_log_file(f"The distance to the pre-trained weights is not logged any more: {error}")
        else:
            self._keep_pretrained_weights(network)

    def _keep_pretrained_weights(self, network: HybridSegmentationNetwork) -> None:
        """A copy on the CPU of what was pre-trained, so that one sees how far it moves."""
        parts = network.parts()
        self.pretrained_weights = {
            name: [weight.detach().cpu().clone() for weight in parts[name]]
            for name in ("vit", "partner")
            if parts[name]
        }

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self.save_latest()

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        self.plain_network.decoder.deep_supervision = enabled

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """As nnU-Net's, but without DDP: in each forward it waits for all ranks, whose numbers of tiles differ."""
        if not self.validation_was_checked:  # nnUNetv2_train --val
            self.refuse_seen_validation_cases()
        wrapped = self.network
        if self.is_ddp:
            self.network = wrapped.module
        super().perform_actual_validation(save_probabilities)
        self.network = wrapped

    def find_pretrained_checkpoint(self) -> Weights:
        """Raises OSError that says what to do, with the command to run; ValueError for a subclass from scratch."""
        if self.config.pretrained == FROM_SCRATCH:  # a subclass: it cannot become another class by itself
            raise ValueError(
                f"NNUNET_TOPOMAE_PRETRAINED={FROM_SCRATCH} is not for {type(self).__name__}, since its results folder "
                "would tell neither kind of training from the other: let it inherit from TopoMAEFinetunerFromScratch"
            )
        if self.config.pretrained:
            weights = local_weights(self.config.pretrained)
            if not weights.path.is_file():
                what = "which is a folder: name a file in it" if weights.path.is_dir() else "and there is no such file"
                raise FileNotFoundError(f"NNUNET_TOPOMAE_PRETRAINED names {weights.path}, {what}")
            return weights
        plans_name, dataset = self.plans_manager.plans_name, self.plans_manager.dataset_name
        folder = join(
            nnUNet_results, dataset, f"TopoMAEPretrainer__{plans_name}__{self.configuration_name}", f"fold_{self.fold}"
        )
        if isfile(join(folder, "checkpoint_final.pth")):
            return local_weights(join(folder, "checkpoint_final.pth"))
        unfinished = any(isfile(join(folder, f"checkpoint_{name}.pth")) for name in ("latest", "best"))
        options = (str(self.fold), "-tr", "TopoMAEPretrainer", "-p", plans_name)
        command = shlex.join(["nnUNetv2_train", dataset, self.configuration_name, *options])
        raise FileNotFoundError(
            f"no pre-trained checkpoint at {join(folder, 'checkpoint_final.pth')}. "
            + (
                f"Its training has not ended; go on with:\n  {command} --c"
                if unfinished
                else f"Run first:\n  {command}"
            )
            + "\nor set NNUNET_TOPOMAE_PRETRAINED to another checkpoint, or to 'none' to train from scratch."
        )

    def _fill(self, network: HybridSegmentationNetwork, checkpoint: Checkpoint) -> LoadReport:
        """With the weights of pre-training, their axes in the order of these plans."""
        if checkpoint.origin is None:
            return network.load_pretrained(checkpoint.weights, self.label_channels)
        theirs = TopoMAEConfig.from_plans(checkpoint.origin.plans)  # an error where that was an older version
        if theirs.partner != self.config.partner:
            raise ValueError(self._other_knob("partner", theirs))
        axes = axes_order(checkpoint.origin.transpose_forward, self.plans_manager.transpose_forward)
        weights = reorder_axes(checkpoint.weights, axes)
        try:
            return network.load_pretrained(weights, self.label_channels)
        except ValueError as error:
            if theirs.preset == self.config.preset:
                raise
            raise ValueError(f"{self._other_knob('preset', theirs)}\n{error}") from error

    def _other_knob(self, name: str, theirs: TopoMAEConfig) -> str:
        trained, here = getattr(theirs, name), getattr(self.config, name)
        return (
            f"it was pre-trained with {name} = {trained!r}, this run has {here!r}: set "
            f"{environment_name(name)}={trained}"
        )

    def _load_pretrained(self, weights: Weights) -> None:
        self.print_to_log_file(f"Pre-trained weights: {weights}")
        checkpoint = read_pretraining(weights.path)
        try:
            report = self._fill(self.plain_network, checkpoint)
        except ValueError as error:
            raise ValueError(f"{weights.source} does not fit this network: {error}") from error
        self.print_to_log_file(str(report), add_timestamp=False)
        self._keep_pretrained_weights(self.plain_network)
        self.record_cases_seen(weights.source, checkpoint.cases_seen)
        init_args(self)["provenance"] = extended(checkpoint.provenance, weights, checkpoint.kind)
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

"""`-tr TopoMAEFinetuner`: segments with the pre-trained ViT encoder fused into its pre-trained partner."""

from __future__ import annotations

import math
import os
import shlex
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_topomae.config import TopoMAEConfig
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
from nnunet_topomae.networks.checkpointing import with_checkpoints
from nnunet_topomae.networks.hybrid import HybridSegmentationNetwork
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.private_names import init_args, set_deep_supervision_weights
from nnunet_topomae.training.schedule import ParameterGroup, WarmupCosineSchedule, adamw, peak_rates
from nnunet_topomae.training.start import FROM_SCRATCH, KNOB, Start, StartedTrainer

PARTNER_ONLY = "partner_only"
TRAIN_TOPOLOGY = "train_topology"
# Part of the training after which shape counts: before, a probability has hundreds of components that mean nothing.
TOPOLOGY_FROM = 0.3


class TopoMAEFinetuner(StartedTrainer):
    """nnU-Net's loss, augmentation and validation around our hybrid network.

    The pre-trained checkpoint is the one of the same dataset, plans, configuration and fold, or the one that
    `NNUNET_TOPOMAE_PRETRAINED` names. With `none` an object of this class is a `TopoMAEFinetunerFromScratch`.
    """

    network: Any
    divergence_remedy = "Lower NNUNET_TOPOMAE_FINETUNE_LR"
    architecture_knobs = (*StartedTrainer.architecture_knobs, "fusion")
    curve_names = (*FINETUNING_INSTRUMENTS, TRAIN_TOPOLOGY)
    knob_of = StartedTrainer.knob_of | {"num_epochs": "finetune_epochs", "initial_lr": "finetune_lr"}

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
        topology = topological_loss(self.config, "none", place=self.config.topology_place)
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
        return self.num_input_channels - len(self.configuration_manager.normalization_schemes)

    def read_start(self, reference: str, named_by: str = KNOB) -> Start:
        """As ever; without a pre-trained ViT the partner segments alone, unless the knob was set."""
        start = super().read_start(reference, named_by)
        if not start.checkpoint.has_vit and self.config.fusion != PARTNER_ONLY:
            if "fusion" in self.asked_knobs:
                what = f"it begins anew, since fusion = {self.config.fusion} is asked for"
            else:
                self.config = replace(self.config, fusion=PARTNER_ONLY)
                what = "the partner segments alone. NNUNET_TOPOMAE_FUSION=stages adds one that begins anew"
            self.print_to_log_file(f"{start.weights.source} has no pre-trained ViT: {what}")
        return start

    def begin_with(self, start: Start) -> None:
        super().begin_with(start)
        self._keep_pretrained_weights(self.plain_network)

    def on_train_start(self) -> None:
        if self.current_epoch > 0 and self.uses_pretraining:
            self._recall_pretrained_weights()
        self.start()
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
            network = deepcopy(self.plain_network)
            # -pretrained_weights is not given again; who has moved the results folder may have moved that file.
            recorded = [link["source"] for link in init_args(self).get("provenance", ())][-1:]
            if reference := next(filter(os.path.isfile, recorded), None) or self.starting_weights():
                self.fill(network, super().read_start(reference))
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
        self.check_validation_alone()
        wrapped = self.network
        if self.is_ddp:
            self.network = wrapped.module
        super().perform_actual_validation(save_probabilities)
        self.network = wrapped

    def starting_weights(self) -> str | None:
        """Raises FileNotFoundError that gives the command to run; ValueError for a subclass from scratch."""
        if not self.uses_pretraining:
            return None
        if self.config.pretrained == FROM_SCRATCH:  # a subclass: it cannot become another class by itself
            raise ValueError(
                f"{KNOB}={FROM_SCRATCH} is not for {type(self).__name__}, since its results folder "
                "would tell neither kind of training from the other: let it inherit from TopoMAEFinetunerFromScratch"
            )
        plans_name, dataset = self.plans_manager.plans_name, self.plans_manager.dataset_name
        model = f"TopoMAEPretrainer__{plans_name}__{self.configuration_name}"
        own = Path(nnUNet_results, dataset, model, f"fold_{self.fold}", "checkpoint_final.pth")
        if named := self.config.pretrained:
            if own.is_file() and Path(named).resolve() != own.resolve():
                self.print_to_log_file(f"{own} is not used, since {KNOB} names {named}")
            return named
        if own.is_file():
            return str(own)
        unfinished = any(own.with_name(f"checkpoint_{name}.pth").is_file() for name in ("latest", "best"))
        options = (str(self.fold), "-tr", "TopoMAEPretrainer", "-p", plans_name)
        command = shlex.join(["nnUNetv2_train", dataset, self.configuration_name, *options])
        raise FileNotFoundError(
            f"no pre-trained checkpoint at {own}. "
            + (
                f"Its training has not ended; go on with:\n  {command} --c"
                if unfinished
                else f"Run first:\n  {command}"
            )
            + f"\nor set {KNOB} to another checkpoint, or to '{FROM_SCRATCH}' to train from scratch."
        )


class TopoMAEFinetunerFromScratch(TopoMAEFinetuner):
    """The same network, losses and schedule without pre-training: the baseline.

    nnU-Net names results folders by the trainer's class, and finds a trainer again by the name in the checkpoint, so a
    class of its own is what keeps the two kinds of model apart everywhere.
    """

    @property
    def uses_pretraining(self) -> bool:
        return False

"""What a training begins with: weights of another one, whatever program it was, or of an earlier phase."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import Any

from nnunet_topomae.config import PLANS_SECTION, TopoMAEConfig, environment_name
from nnunet_topomae.hub import Weights, local_weights
from nnunet_topomae.networks.axes import axes_order, reorder_axes
from nnunet_topomae.networks.foreign import contents
from nnunet_topomae.networks.pretrained import LoadReport
from nnunet_topomae.private_names import init_args, load_named_weights_by, named_weights
from nnunet_topomae.training.checkpoint import Checkpoint, read_checkpoint
from nnunet_topomae.training.provenance import extended
from nnunet_topomae.training.trainer import TopoMAETrainer

FROM_SCRATCH = "none"
KNOB = environment_name("pretrained")


@dataclass(frozen=True)
class Start:
    """Weights to begin with: where they are, and what was read there."""

    weights: Weights
    checkpoint: Checkpoint


class StartedTrainer(TopoMAETrainer):
    """A trainer whose network may begin with other weights: those that `NNUNET_TOPOMAE_PRETRAINED` or nnU-Net's option
    -pretrained_weights names. Its network has `load_pretrained` and `pretrained_names`.

    Attributes:
        knows_its_start: whether it goes on from a checkpoint of its own, or was told what to begin with.
    """

    knows_its_start = False

    def starting_weights(self) -> str | None:
        """What to begin with, where no option says it; None: from scratch."""
        return None if self.config.pretrained in ("", FROM_SCRATCH) else self.config.pretrained

    @property
    def label_channels(self) -> int:
        """Input channels after those of the image: a cascade's previous segmentation, one channel a label."""
        return 0

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        self.knows_its_start = True
        super().load_checkpoint(filename_or_checkpoint)

    def initialize(self) -> None:
        """As nnU-Net's, which then loads what -pretrained_weights names, into a network of the same shape alone."""
        named = None if self.knows_its_start else named_weights(sys.argv)
        if named is None:
            super().initialize()
            return
        start = self.read_start(named, "-pretrained_weights")
        super().initialize()
        load_named_weights_by(lambda: self.begin_with(start))

    def on_train_start(self) -> None:
        self.start()
        super().on_train_start()

    def start(self) -> None:
        """Builds the network and fills it, unless nnU-Net has done so to load --c or -pretrained_weights."""
        if not self.was_initialized:
            self.start_from(self.starting_weights())

    def start_from(self, reference: str | None, named_by: str = KNOB) -> None:
        """Builds the network and fills it with what `reference` names; see `read_start` for errors."""
        self.knows_its_start = True
        start = None if reference is None else self.read_start(reference, named_by)
        self.initialize()
        if start is not None:
            self.begin_with(start)

    def read_start(self, reference: str, named_by: str = KNOB) -> Start:
        """Before the network is built, which may depend on it.

        Raises:
            OSError: there is no such file, or it cannot be had from the Hub.
            ValueError: it holds no weights, or is not safe to read.
        """
        weights = local_weights(reference)
        if not weights.path.is_file():
            what = "which is a folder: name a file in it" if weights.path.is_dir() else "and there is no such file"
            raise FileNotFoundError(f"{named_by} names {weights.path}, {what}")
        return Start(weights, read_checkpoint(weights.path))

    def begin_with(self, start: Start) -> None:
        """Fills the network, and says in the log with what. Raises ValueError where it does not fit."""
        source, checkpoint = start.weights.source, start.checkpoint
        self.print_to_log_file(f"Pre-trained weights: {start.weights}")
        report = self.fill(self.plain_network, start)
        self.print_to_log_file(f"  {checkpoint.kind}\n{report}", add_timestamp=False)
        self.record_cases_seen(source, checkpoint.cases_seen)
        init_args(self)["provenance"] = extended(checkpoint.provenance, start.weights, checkpoint.kind)
        if checkpoint.origin is None:
            self.print_to_log_file("  the checkpoint does not say what it was pre-trained on", add_timestamp=False)
            return
        for difference in checkpoint.origin.differences(self.plans_manager.plans, self.configuration_manager):
            self.print_to_log_file(f"  other {difference}", add_timestamp=False)

    def fill(self, network: Any, start: Start) -> LoadReport:
        """With the weights, their axes in the order of these plans."""
        checkpoint, source = start.checkpoint, start.weights.source
        origin, ours = checkpoint.origin, checkpoint.has_vit
        theirs = TopoMAEConfig.from_plans(origin.plans) if origin is not None and ours else self.config
        try:
            if theirs.partner != self.config.partner:
                raise ValueError(self._other_knob("partner", theirs))
            weights = checkpoint.as_pretraining(network.pretrained_names)
            if origin is not None:
                weights = reorder_axes(
                    weights, axes_order(origin.transpose_forward, self.plans_manager.transpose_forward)
                )
            try:
                return network.load_pretrained(weights, self.label_channels, origin and origin.image_channels)
            except ValueError as error:
                raise ValueError(f"{error}\n{self._plans_for(checkpoint)}") from error
        except ValueError as error:
            is_known = origin is not None and "preset" in origin.plans.get(PLANS_SECTION, {})
            is_other = is_known and theirs.preset != self.config.preset
            remedy = f"{self._other_knob('preset', theirs)}\n" if is_other else ""
            raise ValueError(f"{source} does not fit this network: {remedy}{error}") from error

    def _plans_for(self, checkpoint: Checkpoint) -> str:
        """What to do for a network like theirs, in a sentence."""
        origin, here = checkpoint.origin, self.plans_manager.dataset_name
        if origin is None or not origin.configuration.configuration["architecture"]:
            return contents(checkpoint.weights)
        there, name = str(origin.plans["dataset_name"]), str(origin.plans["plans_name"])
        options = shlex.join(["-s", there, "-t", here, "-sp", name, "-tp", f"{name}_of_{there}"])
        return f"Train with its plans: nnUNetv2_move_plans_between_datasets {options}"

    def _other_knob(self, name: str, theirs: TopoMAEConfig) -> str:
        trained, here = getattr(theirs, name), getattr(self.config, name)
        return (
            f"it was pre-trained with {name} = {trained!r}, this run has {here!r}: set "
            f"{environment_name(name)}={trained}"
        )

"""Environment > what the class set > checkpoint > plans: one rule for whatever a training may be told more than once.

nnU-Net's way to change a training is a subclass that sets attributes (`num_epochs`, `initial_lr`, ...) after
`super().__init__()`; ours are knobs. A resumed training meets both again beside what its checkpoint recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_topomae.checkpoint_files import read_trusted_checkpoint
from nnunet_topomae.config import PLANS_SECTION, TopoMAEConfig, environment_name, from_environment

# What the knobs say of a parameter group. The rest of it, such as a step size that was learnt, is the checkpoint's.
GROUP_SETTINGS = ("lr", "peak_lr", "weight_decay")


class ConfiguredTrainer(nnUNetTrainer):
    """nnU-Net's trainer with knobs. A subclass may set them in `config`, or nnU-Net's attributes that stand for some.

    Attributes:
        config: the knobs; what a subclass has set holds from `settle_knobs` on.
        knob_of: nnU-Net's attributes that stand for knobs.
        architecture_knobs: the knobs that shape the network, and the recipe, which is asked for before them.
    """

    config: TopoMAEConfig
    knob_of: ClassVar[dict[str, str]] = {
        "num_iterations_per_epoch": "iterations_per_epoch",
        "num_val_iterations_per_epoch": "val_iterations_per_epoch",
        "weight_decay": "weight_decay",
    }
    architecture_knobs: ClassVar[tuple[str, ...]] = ("recipe", "preset", "partner")

    def take_knobs(self, config: TopoMAEConfig) -> None:
        """Knobs and attributes are those of `config`; what differs from them in `settle_knobs`, a subclass has set."""
        self.config = self._given = config
        for name, value in self.attributes_of(config).items():
            setattr(self, name, value)

    def attributes_of(self, config: TopoMAEConfig) -> dict[str, Any]:
        """For these knobs the values of nnU-Net's attributes that stand for knobs."""
        return {name: getattr(config, knob) for name, knob in self.knob_of.items()}

    def settle_knobs(self, stored: TopoMAEConfig | None = None) -> None:
        """Puts together what holds from here on, and keeps it in the plans.

        Args:
            stored: environment > checkpoint; None: there is no checkpoint.
        """
        knobs, attributes = asdict(self._given), self.attributes_of(self._given)
        set_by_class = {knob: value for knob, value in asdict(self.config).items() if value != knobs[knob]}
        set_by_class |= {
            knob: getattr(self, name) for name, knob in self.knob_of.items() if getattr(self, name) != attributes[name]
        }
        for knob in set_by_class.keys() & from_environment().keys():
            value = set_by_class.pop(knob)
            self.print_to_log_file(f"{environment_name(knob)} overrides {knob} = {value!r} of {type(self).__name__}")
        if set_by_class:
            self.print_to_log_file(f"{type(self).__name__} sets {set_by_class}")
        self.take_knobs(replace(stored or self._given, **set_by_class))
        self.plans_manager.plans[PLANS_SECTION] = self.config.to_section()

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """As nnU-Net's. Knobs are those of the checkpoint, unless the class or the environment sets them."""
        if not self.was_initialized:
            plans = read_trusted_checkpoint(filename_or_checkpoint)["init_args"]["plans"]
            stored, before = TopoMAEConfig.resolve(plans), self.config
            self.settle_knobs(stored)
            if stored != before:
                self.print_to_log_file(
                    f"Knobs of {filename_or_checkpoint} and the environment:\n{stored}", add_timestamp=False
                )
            self.refuse_other_architecture(TopoMAEConfig.from_plans(plans), f"{filename_or_checkpoint} was")
            self.initialize()
        with settings_kept(self.optimizer):
            super().load_checkpoint(filename_or_checkpoint)

    def refuse_other_architecture(self, theirs: TopoMAEConfig, subject: str) -> None:
        """Raises ValueError where `subject` was trained with knobs that shape another network."""
        for knob in self.architecture_knobs:
            here, there = getattr(self.config, knob), getattr(theirs, knob)
            if here != there:
                raise ValueError(
                    f"{subject} trained with {knob} = {there!r}, this run has {here!r}. They must agree: set "
                    f"{environment_name(knob)}={there}, or train with plans of another name (-p)."
                )


@contextmanager
def settings_kept(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """What the knobs say of its parameter groups stays; `load_state_dict` within takes all else from a checkpoint."""
    groups = [{name: group[name] for name in GROUP_SETTINGS if name in group} for group in optimizer.param_groups]
    yield
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group.update(own)

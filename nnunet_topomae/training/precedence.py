"""Environment > what the class set > checkpoint: one rule for whatever a training may be told more than once.

nnU-Net's way to change a training is a subclass that sets attributes (`num_epochs`, `initial_lr`, ...) after
`super().__init__()`; ours are knobs. A resumed training meets both again beside what its checkpoint recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from operator import attrgetter
from typing import Any

import torch

from nnunet_topomae.config import TopoMAEConfig


class KnobAttribute:
    """An attribute of nnU-Net's trainers that a knob stands for.

    It is the knob's value in the trainer's `config`, unless it has been set on the trainer; the environment, where it
    names the knob, has the last word (`trainer.knobs_in_environment`).

    Args:
        knob: name of the field of `TopoMAEConfig`.
        value: the attribute's value for a config, where that is not the knob's own.
    """

    def __init__(self, knob: str, value: Callable[[TopoMAEConfig], Any] | None = None) -> None:
        self.knob = knob
        self.value = value or attrgetter(knob)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, trainer: Any, owner: type | None = None) -> Any:
        if trainer is None:
            return self
        if self.knob not in trainer.knobs_in_environment and self.name in vars(trainer):
            return vars(trainer)[self.name]
        return self.value(trainer.config)

    def __set__(self, trainer: Any, value: Any) -> None:
        vars(trainer)[self.name] = value


def knob_attributes(trainer_class: type) -> dict[str, KnobAttribute]:
    """All of a class and its bases, by name."""
    members = (member for base in reversed(trainer_class.__mro__) for member in vars(base).items())
    return {name: member for name, member in members if isinstance(member, KnobAttribute)}


def forget_nnunet_defaults(trainer: Any) -> None:
    """Drops what nnU-Net's own `__init__` has set: from here on, what is set is set by a subclass."""
    for name in knob_attributes(type(trainer)):
        vars(trainer).pop(name, None)


def changed_knobs(before: TopoMAEConfig, now: TopoMAEConfig) -> dict[str, Any]:
    """The knobs whose value is another in `now`."""
    return {knob: value for knob, value in asdict(now).items() if value != getattr(before, knob)}


def changed_attributes(trainer: Any) -> dict[str, Any]:
    """The attributes that a subclass has set, by the knob that each stands for."""
    attributes = knob_attributes(type(trainer)).items()
    return {attribute.knob: vars(trainer)[name] for name, attribute in attributes if name in vars(trainer)}


Settings = list[dict[str, Any]]


def optimizer_settings(optimizer: torch.optim.Optimizer) -> Settings:
    """Learning rate, decay and so on of each parameter group, without what an optimiser has learnt meanwhile.

    The latter are entries that the constructor does not take, such as the step size that Prodigy estimates.
    """
    learnt = optimizer.defaults.keys() - inspect.signature(type(optimizer)).parameters.keys()
    return [
        {name: value for name, value in group.items() if name != "params" and name not in learnt}
        for group in optimizer.param_groups
    ]


def restore_settings(optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    """Puts `settings` back, by position: `load_state_dict` has replaced them by those of a checkpoint."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)

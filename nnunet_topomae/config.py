"""Every knob of the method, in one frozen dataclass.

A value comes from the defaults below, then from the `topomae` section of the plans file, then from an environment
variable `NNUNET_TOPOMAE_<FIELD>`, because nnU-Net's command line takes no options of ours. The values in force are
written back into the plans that nnU-Net keeps beside the checkpoints: prediction reads them there and never looks at
the environment, so that a model is always rebuilt as it was trained.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

ENVIRONMENT_PREFIX = "NNUNET_TOPOMAE_"
PLANS_SECTION = "topomae"
OF_PRESET = -1  # a learning rate that follows from the preset


class ConfigError(ValueError):
    """An unknown knob or a value that a knob cannot take. The message lists what is valid."""


def _one_of(*choices: str) -> tuple[str, Callable[[Any], bool]]:
    return "one of " + ", ".join(choices), lambda value: value in choices


def _between(low: float, high: float) -> tuple[str, Callable[[Any], bool]]:
    return f"between {low:.10g} and {high:.10g}", lambda value: low <= value <= high


def _at_least(low: float) -> tuple[str, Callable[[Any], bool]]:
    return f"at least {low:g}", lambda value: value >= low


_ANY = ("anything", lambda value: True)
_DIMENSIONS = (
    "distinct homology dimensions out of 0, 1, 2",
    lambda value: len(value) > 0 and len(set(value)) == len(value) and set(value) <= {0, 1, 2},
)
_FRACTION = ("strictly between 0 and 1", lambda value: 0 < value < 1)
_LEARNING_RATE = ("at least 0, or -1: the preset's", lambda value: value >= 0 or value == OF_PRESET)


def _knob(default: Any, meaning: str, unit: str = "", valid: tuple[str, Callable[[Any], bool]] = _ANY) -> Any:
    return field(default=default, metadata={"meaning": meaning, "unit": unit, "valid": valid})


@dataclass(frozen=True)
class TopoMAEConfig:
    """The knobs of pre-training and fine-tuning. `describe_knobs()` prints them with unit, default and meaning."""

    preset: str = _knob("base", "widths and depths of the networks", valid=_one_of("tiny", "small", "base"))
    fusion: str = _knob(
        "bottleneck",
        "how ViT features meet UNETR++ in fine-tuning; unetrpp_only and vit_only leave one encoder out (ablations)",
        valid=_one_of("stages", "bottleneck", "cross_attention", "unetrpp_only", "vit_only"),
    )
    drop_path_rate: float = _knob(
        0.0, "stochastic depth: largest probability that a ViT block is skipped", valid=_between(0, 0.9)
    )
    layer_scale: float = _knob(0.0, "initial layer scale of the ViT's blocks; 0: none", valid=_at_least(0))
    pretrained: str = _knob(
        "", "pre-trained checkpoint to fine-tune; empty: the one of this dataset, plans, configuration and fold; 'none'"
    )
    seed: int = _knob(
        -1, "seed of weights, crops and masks; -1 draws a new one each run", valid=_between(-1, 2**31 - 1)
    )

    pretrain_epochs: int = _knob(1000, "length of pre-training", "epochs", _at_least(1))
    finetune_epochs: int = _knob(1000, "length of fine-tuning", "epochs", _at_least(1))
    iterations_per_epoch: int = _knob(250, "optimiser steps in an epoch", "steps", _at_least(1))
    val_iterations_per_epoch: int = _knob(50, "validation batches in an epoch", "batches", _at_least(1))

    pretrain_lr: float = _knob(-1.0, "peak learning rate of pre-training (AdamW)", valid=_LEARNING_RATE)
    finetune_lr: float = _knob(-1.0, "peak learning rate of fine-tuning (AdamW)", valid=_LEARNING_RATE)
    pretrained_lr_factor: float = _knob(
        1.0, "learning rate of pre-trained parameters in fine-tuning, as a factor on finetune_lr", valid=_at_least(0)
    )
    weight_decay: float = _knob(0.05, "AdamW weight decay of matrices and kernels", valid=_at_least(0))
    warmup_fraction: float = _knob(0.05, "part of the epochs with rising learning rate", valid=_between(0, 1))
    pretrain_gradient_clip: float = _knob(1.0, "largest gradient norm in pre-training", valid=_at_least(0))

    mask_ratio: float = _knob(0.75, "part of the tokens that is masked", valid=_FRACTION)
    normalise_targets: bool = _knob(False, "reconstruct each token with zero mean and unit variance")
    rotation_probability: float = _knob(0.2, "probability that a pre-training crop is rotated", valid=_between(0, 1))
    scaling_probability: float = _knob(0.2, "probability that a pre-training crop is scaled", valid=_between(0, 1))
    mirror: bool = _knob(False, "mirror pre-training crops (the nine points move with them)")

    weight_reconstruction: float = _knob(1.0, "weight of the masked reconstruction error", valid=_at_least(0))
    weight_topology: float = _knob(100.0, "weight of the topological loss", valid=_at_least(0))
    weight_position: float = _knob(0.1, "weight of the nine-point error", valid=_at_least(0))
    weight_consistency_points: float = _knob(
        0.1, "weight of the two networks' disagreement on points", valid=_at_least(0)
    )
    weight_consistency_reconstruction: float = _knob(
        0.1, "weight of the two networks' disagreement on masked voxels", valid=_at_least(0)
    )

    topology_dimensions: tuple[int, ...] = _knob((0, 1, 2), "homology dimensions compared", valid=_DIMENSIONS)
    topology_max_side: int = _knob(
        64, "average-pool volumes to this side before homology; 0: never", "voxels", _at_least(0)
    )
    topology_windows: int = _knob(
        0, "compare boxes of at most this side in full resolution, not pooled volumes; 0: never", "voxels", _at_least(0)
    )
    topology_tolerance: float = _knob(0.01, "certified relative error of each squared W2 distance", valid=_FRACTION)
    topology_min_persistence: float = _knob(0.0, "leave out pairs that live shorter", "intensity", _at_least(0))
    topology_normalisation: str = _knob(
        "voxels",
        "'none': squared W2 as in the paper; 'voxels': divided by the number of voxels",
        valid=_one_of("none", "voxels"),
    )
    topology_backend: str = _knob(
        "numba", "persistent homology by our engine or by gudhi", valid=_one_of("numba", "gudhi")
    )

    validation_crops: int = _knob(4, "crops a case in the pre-trainer's final validation", "crops", _at_least(1))

    def __post_init__(self) -> None:
        for knob in fields(self):
            object.__setattr__(self, knob.name, _checked(knob, getattr(self, knob.name)))

    @classmethod
    def from_plans(cls, plans: Mapping[str, Any]) -> TopoMAEConfig:
        """Defaults overridden by the plans' `topomae` section alone: how a trained model is rebuilt."""
        return cls(**_known(plans.get(PLANS_SECTION, {}), f"the '{PLANS_SECTION}' section of the plans"))

    @classmethod
    def resolve(cls, plans: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> TopoMAEConfig:
        """Defaults < plans < environment: how a training begins. Raises ConfigError."""
        from_environment = {
            name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(ENVIRONMENT_PREFIX)
        }
        chosen = {
            **_known(plans.get(PLANS_SECTION, {}), f"the '{PLANS_SECTION}' section of the plans"),
            **_known(from_environment, f"the environment ({ENVIRONMENT_PREFIX}...)"),
        }
        return cls(**chosen)

    def to_section(self) -> dict[str, Any]:
        """The `topomae` section of a plans file, JSON-serialisable."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        width = max(len(knob.name) for knob in fields(self))
        marks = {True: "", False: "   (changed)"}
        return "\n".join(
            f"  {knob.name:{width}}  {getattr(self, knob.name)!r}{marks[getattr(self, knob.name) == knob.default]}"
            for knob in fields(self)
        )


def describe_knobs() -> str:
    """A Markdown table of every knob: environment variable, default, unit, what is valid, meaning."""
    rows = ["| knob | default | unit | valid | meaning |", "| --- | --- | --- | --- | --- |"]
    for knob in fields(TopoMAEConfig):
        unit, valid, meaning = knob.metadata["unit"], knob.metadata["valid"][0], knob.metadata["meaning"]
        rows.append(f"| `{knob.name}` | `{knob.default!r}` | {unit} | {valid} | {meaning} |")
    return "\n".join(rows)


def _known(values: Any, origin: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{origin} must map names to values, not be a {type(values).__name__}")
    names = [knob.name for knob in fields(TopoMAEConfig)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ConfigError(f"unknown knob {', '.join(map(repr, unknown))} in {origin}. Valid names: {', '.join(names)}")
    return dict(values)


def _checked(knob: Any, value: Any) -> Any:
    """`value` in the knob's type, or a ConfigError that says what the knob takes."""
    description, is_valid = knob.metadata["valid"]
    try:
        parsed = _parse(value, type(knob.default))
        if is_valid(parsed):
            return parsed
    except (TypeError, ValueError, OverflowError):
        pass
    kind = "integers separated by commas" if isinstance(knob.default, tuple) else type(knob.default).__name__
    raise ConfigError(
        f"{knob.name} = {value!r} is not valid: it takes {kind}, {description} ({knob.metadata['meaning']}). "
        f"Set it in the plans' '{PLANS_SECTION}' section or as {ENVIRONMENT_PREFIX}{knob.name.upper()}"
    )


def _parse(value: Any, kind: type) -> Any:
    if kind is bool:
        return _parse_bool(value)
    if kind is tuple:
        parts = value.replace(",", " ").split() if isinstance(value, str) else value
        return tuple(_parse(part, int) for part in parts)
    if kind is str:
        if not isinstance(value, str):
            raise TypeError
        return value.strip()
    if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
        raise TypeError
    number = kind(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _parse_bool(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise TypeError

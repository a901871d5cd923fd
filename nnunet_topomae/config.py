"""Every knob of the method, in one frozen dataclass.

A value comes from the defaults below, then from the `topomae` section of the plans file, then from an environment
variable `NNUNET_TOPOMAE_<FIELD>`, because nnU-Net's command line takes no options of ours. The values in force are
written back into the plans that nnU-Net keeps beside the checkpoints: prediction reads them there and never looks at
the environment, so that a model is always rebuilt as it was trained.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

ENVIRONMENT_PREFIX = "NNUNET_TOPOMAE_"
PLANS_SECTION = "topomae"
OF_PRESET = -1  # a knob that follows from the preset
# By the names of their files in `networks/partners/`, and what `preset = auto` stands for beside each: the ViT that the
# results beside nnU-Net's network are of, and the paper's sizes.
PARTNERS: Mapping[str, str] = {"plan": "tiny", "unetrpp": "base", "unetrpp_acdc": "base", "unetrpp_brats": "base"}
# What the paper has (docs/method.md, "The paper's recipe"). What it leaves open keeps its default.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "paper": {
        "partner": "unetrpp",
        "preset": "base",
        "fusion": "stages",
        "vit_views": 1,
        "vit_steps": 1,
        "weight_reconstruction": 1.0,
        "weight_topology": 100.0,
        "weight_position": 0.1,
        "weight_consistency_points": 0.1,
        "weight_consistency_reconstruction": 0.1,
        "finetune_weight_topology": 0.0,
        "topology_dimensions": (0, 1, 2),
        "topology_every": 1,
        "topology_scale": 0,
        "topology_place": 0.0,
    },
}
# Knobs of version 0.2 that are gone, with the value that the software has now: at it, old plans still hold.
REMOVED: Mapping[str, Any] = {
    "ablation": "",
    "layer_scale": 0.0,
    "random_placement": False,
    "normalise_targets": False,
    "mirror": False,
    "topology_windows": 0,
    "topology_normalisation": "voxels",
    "drop_path_rate": 0.0,
    "pretrained_lr_factor": 1.0,
    "warmup_fraction": 0.05,
    "pretrain_gradient_clip": 1.0,
    "rotation_probability": 0.2,
    "scaling_probability": 0.2,
    "validation_crops": 4,
    "topology_backend": "numba",
    "topology_min_persistence": 0.0,
}
# And values that knobs took.
REMOVED_VALUES: Mapping[str, Sequence[str]] = {"fusion": ("bottleneck", "token_grid", "cross_attention", "vit_only")}
UNPARSABLE = (AttributeError, KeyError, OverflowError, TypeError, ValueError)  # of `_parse`
PHASES = BOTH, PRETRAINING, FINETUNING = "both phases", "pre-training", "fine-tuning"


Number = TypeVar("Number", int, float)


def or_preset(asked: Number, preset: Number) -> Number:
    """The value of a knob, or the preset's where that is asked for."""
    return preset if asked == OF_PRESET else asked


class ConfigError(ValueError):
    """An unknown knob or a value that a knob cannot take. The message lists what is valid."""


def _one_of(*choices: str) -> tuple[str, Callable[[Any], bool]]:
    return "one of " + ", ".join(choice or "''" for choice in choices), lambda value: value in choices


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
_LEARNING_RATE = (
    "at least 0 (0: weights stay as they are), or -1: the preset's",
    lambda value: value >= 0 or value == OF_PRESET,
)
_COUNT_OF_PRESET = ("at least 1, or -1: the preset's", lambda value: value >= 1 or value == OF_PRESET)
_SIDE = ("0: never, or at least 2", lambda value: value == 0 or value >= 2)  # one voxel has no topology to compare


def _knob(
    default: Any,
    meaning: str,
    unit: str = "",
    valid: tuple[str, Callable[[Any], bool]] = _ANY,
    phase: str = PRETRAINING,
) -> Any:
    return field(default=default, metadata={"meaning": meaning, "unit": unit, "valid": valid, "phase": phase})


@dataclass(frozen=True)
class TopoMAEConfig:
    """The knobs of pre-training and fine-tuning. `nnunet-topomae knobs` shows them with default and meaning."""

    recipe: str = _knob(
        "ours",
        "values of the knobs that nothing sets: our defaults (ours), or what the paper has, where it says (paper)",
        valid=_one_of(*RECIPES),
        phase=BOTH,
    )
    preset: str = _knob(
        "auto",
        "widths and depths of the networks; auto: tiny beside nnU-Net's own network, base beside UNETR++",
        valid=_one_of("auto", "tiny", "small", "base"),
        phase=BOTH,
    )
    partner: str = _knob(
        "plan",
        "the network beside the ViT: nnU-Net's own, as planned for the data (plan), or UNETR++, the paper's (unetrpp; "
        "unetrpp_acdc, unetrpp_brats: with the blocks published for ACDC and lung, and for brain)",
        valid=_one_of(*PARTNERS),
        phase=BOTH,
    )
    fusion: str = _knob(
        "stages",
        "how ViT features meet the partner's in fine-tuning: at each stage, or not at all (partner_only), which holds "
        "without a pre-trained ViT unless this is set",
        valid=_one_of("stages", "partner_only"),
        phase=FINETUNING,
    )
    gradient_checkpointing: bool = _knob(
        False, "compute the blocks again in the backward pass: less memory, more time", phase=BOTH
    )
    pretrained: str = _knob(
        "",
        "weights to begin with, of ours, nnU-Net or nnssl: a file or hf://owner/name[@revision][/file]; empty: none in "
        "pre-training, the pre-training of this dataset, plans, configuration and fold in fine-tuning; 'none'",
        phase=BOTH,
    )
    seen_validation_cases: str = _knob(
        "refuse",
        "what to do where validation cases are among those that the weights have been trained on before",
        valid=_one_of("refuse", "warn"),
        phase=BOTH,
    )
    seed: int = _knob(
        -1, "seed of weights, crops and masks; -1 draws a new one each run", valid=_between(-1, 2**31 - 1), phase=BOTH
    )

    augment_on: str = _knob(
        "auto",
        "who augments training crops: the training device, or data workers as in nnU-Net; auto: the device on CUDA",
        valid=_one_of("auto", "device", "workers"),
        phase=BOTH,
    )

    pretrain_epochs: int = _knob(1000, "length of pre-training", "epochs", _at_least(1))
    finetune_epochs: int = _knob(1000, "length of fine-tuning", "epochs", _at_least(1), FINETUNING)
    iterations_per_epoch: int = _knob(250, "optimiser steps in an epoch", "steps", _at_least(1), BOTH)
    val_iterations_per_epoch: int = _knob(50, "validation batches in an epoch", "batches", _at_least(1), BOTH)

    pretrain_lr: float = _knob(-1.0, "peak learning rate of pre-training (AdamW)", valid=_LEARNING_RATE)
    finetune_lr: float = _knob(
        -1.0, "peak learning rate of fine-tuning (AdamW)", valid=_LEARNING_RATE, phase=FINETUNING
    )
    vit_pretrain_lr_factor: float = _knob(
        -1.0, "learning rate of the ViT in pre-training, as a factor on pretrain_lr", valid=_LEARNING_RATE
    )
    vit_finetune_lr_factor: float = _knob(
        -1.0,
        "learning rate of the ViT in fine-tuning, as a factor on finetune_lr",
        valid=_LEARNING_RATE,
        phase=FINETUNING,
    )
    weight_decay: float = _knob(0.05, "AdamW weight decay of matrices and kernels", valid=_at_least(0), phase=BOTH)

    mask_ratio: float = _knob(0.75, "part of the tokens that is masked", valid=_FRACTION)
    vit_views: int = _knob(
        -1, "masks a crop that the ViT is pre-trained under; its partner takes the first", "masks", _COUNT_OF_PRESET
    )
    vit_steps: int = _knob(
        -1,
        "steps of the ViT in each step, all but the first without its partner and on other crops",
        "steps",
        _COUNT_OF_PRESET,
    )

    weight_reconstruction: float = _knob(1.0, "weight of the masked reconstruction error", valid=_at_least(0))
    weight_topology: float = _knob(0.0, "weight of the topological loss; the paper's: 100", valid=_at_least(0))
    weight_position: float = _knob(0.0, "weight of the nine-point error; the paper's: 0.1", valid=_at_least(0))
    weight_consistency_points: float = _knob(
        0.0, "weight of the two networks' disagreement on points; the paper's: 0.1", valid=_at_least(0)
    )
    weight_consistency_reconstruction: float = _knob(
        0.1, "weight of the two networks' disagreement on masked voxels", valid=_at_least(0)
    )

    finetune_weight_topology: float = _knob(
        0.0,
        "weight of the topological loss between probabilities and labels in fine-tuning; 0: none",
        valid=_at_least(0),
        phase=FINETUNING,
    )

    topology_every: int = _knob(
        1,
        "compute the topological loss every so many steps, with its weight times as many",
        "steps",
        _at_least(1),
        BOTH,
    )
    topology_dimensions: tuple[int, ...] = _knob(
        (0, 1, 2), "homology dimensions compared", valid=_DIMENSIONS, phase=BOTH
    )
    topology_max_side: int = _knob(64, "average-pool volumes to this side before homology", "voxels", _SIDE, BOTH)
    topology_tolerance: float = _knob(
        0.01, "certified relative error of each squared W2 distance", valid=_FRACTION, phase=BOTH
    )
    topology_scale: int = _knob(
        0,
        "compare low-passed volumes, with so many points a side of a token; 0: full resolution",
        "points",
        _at_least(0),
    )
    topology_place: float = _knob(
        0.0,
        "what a pair pays for each grid point between its critical voxels; 0: nothing",
        "intensity",
        _at_least(0),
        BOTH,
    )

    panel_every: int = _knob(
        50, "epochs between panels of the same validation crops in progress/; 0: none", "epochs", _at_least(0)
    )

    def __post_init__(self) -> None:
        for knob in fields(self):
            object.__setattr__(self, knob.name, _checked(knob, getattr(self, knob.name)))
        if self.preset == "auto":
            object.__setattr__(self, "preset", PARTNERS[self.partner])
        weights = [
            knob.name for knob in fields(self) if knob.name.startswith("weight_") and knob.name != "weight_decay"
        ]
        if not any(getattr(self, name) for name in weights):
            raise ConfigError(
                f"{', '.join(weights)} are all 0: nothing is left to pre-train on, give one of them a weight"
            )

    @classmethod
    def from_plans(cls, plans: Mapping[str, Any]) -> TopoMAEConfig:
        """Defaults overridden by the plans' `topomae` section alone: how a trained model is rebuilt.

        Raises ConfigError for a model of version 0.1: its ViT counted positions otherwise, which no weight shows.
        """
        section = plans.get(PLANS_SECTION, {})
        first_version = {"topology_backend", "weight_decay"}  # which wrote all of its knobs, and had no views
        if isinstance(section, Mapping) and first_version <= section.keys() and "vit_views" not in section:
            raise ConfigError(
                "this model was trained with version 0.1 of nnunet-topomae, whose ViT had another position embedding: "
                "use it with that version, or train again"
            )
        return cls(**_after_recipe(_known(plans.get(PLANS_SECTION, {}), f"the '{PLANS_SECTION}' section of the plans")))

    @classmethod
    def resolve(cls, plans: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> TopoMAEConfig:
        """Defaults < recipe < plans < environment: how a training begins. Raises ConfigError."""
        return cls(**cls.asked(plans, environment))

    @classmethod
    def asked(cls, plans: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
        """What `resolve` puts before the defaults. Raises ConfigError."""
        chosen = {
            **_known(plans.get(PLANS_SECTION, {}), f"the '{PLANS_SECTION}' section of the plans"),
            **_known(from_environment(environment), f"the environment ({ENVIRONMENT_PREFIX}...)"),
        }
        return _after_recipe(chosen)

    def to_section(self) -> dict[str, Any]:
        """The `topomae` section of a plans file, JSON-serialisable."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        default = type(self)()
        width = max(len(knob.name) for knob in fields(self))
        lines = []
        for knob in fields(self):
            value = getattr(self, knob.name)
            mark = "" if value == getattr(default, knob.name) else "   (changed)"
            lines.append(f"  {knob.name:{width}}  {value!r}{mark}")
        return "\n".join(lines)


def environment_name(knob: str) -> str:
    """The environment variable of a knob."""
    return ENVIRONMENT_PREFIX + knob.upper()


def from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the environment sets, by knob; names that are no knob's too."""
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }


def _after_recipe(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What is chosen and, for the rest, what its recipe says."""
    recipe = chosen.get("recipe", "ours")
    of_recipe = RECIPES.get(recipe.strip(), {}) if isinstance(recipe, str) else {}
    return {**of_recipe, **chosen}


def _known(values: Any, origin: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{origin} must map names to values, not be a {type(values).__name__}")
    values = {name: value for name, value in values.items() if not _is_removed(name, value, origin)}
    names = [knob.name for knob in fields(TopoMAEConfig)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ConfigError(f"unknown knob {', '.join(map(repr, unknown))} in {origin}. Valid names: {', '.join(names)}")
    return dict(values)


def _is_removed(name: str, value: Any, origin: str) -> bool:
    """Whether this knob of version 0.2 can be left out; raises ConfigError where it, or its value, is gone."""
    if name in REMOVED:
        with suppress(*UNPARSABLE):
            if _parse(value, type(REMOVED[name])) == REMOVED[name]:
                return True
    if name in REMOVED or value in REMOVED_VALUES.get(name, ()):
        raise ConfigError(
            f"{name} = {value!r} in {origin}: removed after version 0.2 of nnunet-topomae (docs/experiments.md says "
            "why). Use that version, or leave it out"
        )
    return False


def _checked(knob: Any, value: Any) -> Any:
    """`value` in the knob's type, or a ConfigError that says what the knob takes."""
    description, is_valid = knob.metadata["valid"]
    with suppress(*UNPARSABLE):
        parsed = _parse(value, type(knob.default))
        if is_valid(parsed):
            return parsed
    kind = "integers separated by commas" if isinstance(knob.default, tuple) else type(knob.default).__name__
    raise ConfigError(
        f"{knob.name} = {value!r} is not valid: it takes {kind}, {description} ({knob.metadata['meaning']}). "
        f"Set it in the plans' '{PLANS_SECTION}' section or as {environment_name(knob.name)}"
    )


def _parse(value: Any, kind: type) -> Any:
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return value if isinstance(value, bool) else words[value.strip().lower()]
    if kind is tuple:
        parts = value.replace(",", " ").split() if isinstance(value, str) else value
        return tuple(_parse(part, int) for part in parts)
    if kind is str:
        return value.strip()
    if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
        raise TypeError
    number = kind(value)
    if not math.isfinite(number):
        raise ValueError
    return number

"""Which settings of the runs differ from the defaults, and from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any, NamedTuple

from nnunet_topomae.config import BOTH, FINETUNING, PLANS_SECTION, PRETRAINING, TopoMAEConfig
from nnunet_topomae.report.runs import Run

NOT_USED = "–"
NNUNET_DEFAULTS = {  # nnUNetTrainer.__init__ of nnU-Net 2.8; None where the plans decide
    "num_epochs": 1000,
    "num_iterations_per_epoch": 250,
    "num_val_iterations_per_epoch": 50,
    "initial_lr": 1e-2,
    "weight_decay": 3e-5,
    "oversample_foreground_percent": 0.33,
    "batch_size": None,
}
FROM_PLANS = ("patch_size", "spacing", "normalization_schemes", "data_identifier")


class Setting(NamedTuple):
    """One row. `changed` marks the runs whose value is not the default; `runs_differ` that they are not all alike."""

    name: str
    default: str
    values: list[str]
    changed: list[bool]
    meaning: str = ""

    @property
    def runs_differ(self) -> bool:
        return len({value for value in self.values if value != NOT_USED}) > 1

    @property
    def is_telling(self) -> bool:
        return self.runs_differ or any(self.changed)


def knobs(runs: Sequence[Run]) -> list[Setting]:
    """Every knob of ours; those in which runs differ first, then those that differ from the default, then the rest.

    A run has no value of a knob that its phase does not look at.
    """
    ours = [run for run in runs if _has_knobs(run)]
    known, default = {knob.name: knob for knob in fields(TopoMAEConfig)}, TopoMAEConfig()
    unknown = sorted({name for run in ours for name in run.plans[PLANS_SECTION]} - set(known))
    rows = []
    for knob in known.values():
        values = [_value(run, knob.name) if _looks_at(run, knob) else NOT_USED for run in runs]
        meaning = " ".join(filter(None, (knob.metadata["meaning"], _unit(knob))))
        rows.append(_setting(knob.name, _plain(getattr(default, knob.name)), values, meaning))
    for name in unknown:
        values = [_value(run, name) if run in ours else NOT_USED for run in runs]
        rows.append(_setting(name, None, values, "not a knob of this version"))
    return _in_order(rows) if ours else []


def nnunet_settings(runs: Sequence[Run]) -> list[Setting]:
    """nnU-Net's own numbers. Our trainers set some from knobs, so only nnU-Net's are marked as changed."""
    rows = []
    for name, default in NNUNET_DEFAULTS.items():
        values = [_or_not_used(run.setting(name)) for run in runs]
        row = _setting(name, default, values)
        ours = [_has_knobs(run) for run in runs]
        rows.append(row._replace(changed=[c and not of_ours for c, of_ours in zip(row.changed, ours, strict=True)]))
    for name in FROM_PLANS:
        values = [_or_not_used(_of_plans(run, name)) for run in runs]
        rows.append(_setting(f"{name}, of the plans", None, values))
    return _in_order([row for row in rows if any(value != NOT_USED for value in row.values)])


def _has_knobs(run: Run) -> bool:
    """Plans with our section may be trained by nnU-Net's own trainer, which does not look at it."""
    if not isinstance(run.plans.get(PLANS_SECTION), dict):
        return False
    return "config" in run.debug if run.debug else run.trainer.startswith("TopoMAE")


def _looks_at(run: Run, knob: Field) -> bool:
    return _has_knobs(run) and knob.metadata["phase"] in (BOTH, _phase(run))


def _value(run: Run, knob: str) -> Any:
    return run.plans[PLANS_SECTION].get(knob, NOT_USED)


def _phase(run: Run) -> str:
    return PRETRAINING if run.is_pretraining else FINETUNING


def _of_plans(run: Run, name: str) -> Any:
    configurations = run.plans.get("configurations")
    configuration = configurations.get(run.configuration) if isinstance(configurations, dict) else None
    while isinstance(configuration, dict) and name not in configuration and "inherits_from" in configuration:
        configuration = configurations.get(configuration["inherits_from"])
    return configuration.get(name) if isinstance(configuration, dict) else None


def _setting(name: str, default: Any, values: Sequence[Any], meaning: str = "") -> Setting:
    plain = [_plain(value) for value in values]
    changed = [default is not None and value not in (NOT_USED, default) for value in plain]
    return Setting(name, _text(default), list(map(_text, plain)), changed, meaning)


def _in_order(rows: list[Setting]) -> list[Setting]:
    return sorted(rows, key=lambda row: (not row.runs_differ, not any(row.changed)))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _or_not_used(value: Any) -> Any:
    return NOT_USED if value is None else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return " × ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value)
    return "(empty)" if value == "" else str(value)


def _unit(knob: Field) -> str:
    return f"({knob.metadata['unit']})" if knob.metadata["unit"] else ""

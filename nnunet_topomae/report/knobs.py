"""Which settings of the models differ from the defaults, and from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from nnunet_topomae.config import BOTH, FINETUNING, PRETRAINING, TopoMAEConfig
from nnunet_topomae.report.lenient import text
from nnunet_topomae.report.models import Model
from nnunet_topomae.report.runs import Run

NOT_USED = "–"
NNUNET_DEFAULTS = {  # nnUNetTrainer.__init__ of nnU-Net 2.8; empty where the plans decide
    "num_epochs": "1000",
    "num_iterations_per_epoch": "250",
    "num_val_iterations_per_epoch": "50",
    "initial_lr": "0.01",
    "weight_decay": "3e-05",
    "oversample_foreground_percent": "0.33",
    "batch_size": "",
}
FROM_PLANS = ("patch_size", "spacing", "normalization_schemes", "data_identifier")


class Setting(NamedTuple):
    """A value a model. `changed` marks those that are not the default; `differ` that not all folds have the same."""

    name: str
    default: str
    values: list[str]
    changed: list[bool]
    differ: bool
    meaning: str = ""

    @property
    def is_telling(self) -> bool:
        return self.differ or any(self.changed)


def knobs(models: Sequence[Model]) -> list[Setting]:
    """Every knob of ours; those in which runs differ first, then those that differ from the default, then the rest.

    A run has no value of a knob that its phase does not look at.
    """
    if not any(_has_knobs(run) for model in models for run in model.runs):
        return []
    known, default = {knob.name: knob for knob in fields(TopoMAEConfig)}, TopoMAEConfig()
    rows = []
    for name, knob in known.items():
        unit = knob.metadata["unit"]
        meaning = f"{knob.metadata['meaning']} ({unit})" if unit else knob.metadata["meaning"]
        values = [[_knob(run, name, knob.metadata["phase"]) for run in model.runs] for model in models]
        rows.append(_setting(name, _said(getattr(default, name)), values, meaning))
    for name in sorted({name for model in models for run in model.runs for name in run.knobs or {}} - set(known)):
        values = [[_knob(run, name, BOTH) for run in model.runs] for model in models]
        rows.append(_setting(name, "", values, "not a knob of this version"))
    return _in_order(rows)


def nnunet_settings(models: Sequence[Model]) -> list[Setting]:
    """nnU-Net's own numbers. Our trainers set some from knobs, so only nnU-Net's are marked as changed."""
    rows = []
    ours = [_has_knobs(model.first) for model in models]
    for name, default in NNUNET_DEFAULTS.items():
        row = _setting(name, default, [[run.setting(name) for run in model.runs] for model in models])
        rows.append(row._replace(changed=[c and not our for c, our in zip(row.changed, ours, strict=True)]))
    for name in FROM_PLANS:
        values = [[run.planned.get(name) for run in model.runs] for model in models]
        rows.append(_setting(f"{name}, of the plans", "", values))
    return _in_order([row for row in rows if any(value != NOT_USED for value in row.values)])


def _has_knobs(run: Run) -> bool:
    """Plans with our section may be trained by nnU-Net's own trainer, which does not look at it."""
    if run.knobs is None:
        return False
    return "config" in run.debug if run.debug else run.trainer.startswith("TopoMAE")


def _knob(run: Run, name: str, phase: str) -> Any:
    """None where the run does not look at it."""
    own = PRETRAINING if run.is_pretraining else FINETUNING
    return run.knobs.get(name) if run.knobs and _has_knobs(run) and phase in (BOTH, own) else None


def _setting(name: str, default: str, values: Sequence[Sequence[Any]], meaning: str = "") -> Setting:
    """Of values by model and fold."""
    by_model = [list(dict.fromkeys(map(_said, of_model))) for of_model in values]
    used = {said for of_model in by_model for said in of_model} - {NOT_USED}
    changed = [bool(default) and bool(set(of_model) - {NOT_USED, default}) for of_model in by_model]
    return Setting(name, default, [" or ".join(of_model) for of_model in by_model], changed, len(used) > 1, meaning)


def _in_order(rows: list[Setting]) -> list[Setting]:
    return sorted(rows, key=lambda row: (not row.differ, not any(row.changed)))


def _said(value: Any) -> str:
    if value is None:
        return NOT_USED
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return text(" × ".join(f"{part:.3g}" if isinstance(part, float) else text(part) for part in value))
    return text(value) or "(empty)"

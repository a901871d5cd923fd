"""Which settings of the models differ from the defaults, and from each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

from markupsafe import Markup

from nnunet_topomae.config import BOTH, FINETUNING, PRETRAINING, TopoMAEConfig
from nnunet_topomae.report.models import Model
from nnunet_topomae.report.runs import Run
from nnunet_topomae.report.tables import DASH, Row, Table, table
from nnunet_topomae.report.words import text

OF_TRAINER = ("num_epochs", "num_iterations_per_epoch", "initial_lr", "weight_decay", "batch_size")
OF_PLANS = ("patch_size", "spacing", "normalization_schemes", "data_identifier")


class Setting(NamedTuple):
    """A row of a table with a column a model, and whether runs differ in it, or from the default."""

    row: Row
    differ: bool
    changed: bool


def knobs(models: Sequence[Model]) -> list[Setting]:
    """Every knob of ours; a run has no value of one that its phase does not look at."""
    used = [run for model in models for run in model.runs if run.knobs is not None]
    if not used:
        return []
    known, default = {knob.name: knob for knob in fields(TopoMAEConfig)}, TopoMAEConfig()
    settings = []
    for name, knob in known.items():
        meaning, unit, phase = (knob.metadata[about] for about in ("meaning", "unit", "phase"))
        read = partial(_knob, name, phase)
        settings.append(
            _setting(models, name, _said(getattr(default, name)), read, f"{meaning}{unit and f' ({unit})'}")
        )
    for name in sorted({name for run in used for name in run.knobs or {}} - set(known)):
        settings.append(_setting(models, name, "", partial(_knob, name, BOTH), "not a knob of this version"))
    return settings


def _knob(name: str, phase: str, run: Run) -> Any:
    own = PRETRAINING if run.is_pretraining else FINETUNING
    return (run.knobs or {}).get(name) if phase in (BOTH, own) else None


def nnunet_settings(models: Sequence[Model]) -> list[Setting]:
    """nnU-Net's own numbers, as its trainer and the plans have them; our trainers set some from knobs."""
    return [_setting(models, name, "", partial(_of_nnunet, name)) for name in (*OF_TRAINER, *OF_PLANS)]


def _of_nnunet(name: str, run: Run) -> Any:
    return (run.debug if name in OF_TRAINER else run.planned).get(name)


def setting_tables(title: str, settings: Sequence[Setting]) -> tuple[Table, Table]:
    """Those in which runs differ from each other, then those in which they do from the default; and all others."""
    telling = sorted((s for s in settings if s.differ or s.changed), key=lambda s: (not s.differ, not s.changed))
    others = [setting.row for setting in settings if not (setting.differ or setting.changed)]
    return table(title, [setting.row for setting in telling]), table("The others, which all runs have alike", others)


def _setting(
    models: Sequence[Model], name: str, default: str, read: Callable[[Run], Any], meaning: str = ""
) -> Setting:
    """What each model has, marked where it is not the default; several values where its folds differ."""
    said = {model.letter: list(dict.fromkeys(_said(read(run)) for run in model.runs)) for model in models}
    changed = {letter for letter, values in said.items() if default and set(values) - {DASH, default}}
    differ = len({value for values in said.values() for value in values} - {DASH}) > 1
    cells = {
        letter: Markup("<mark>{}</mark>" if letter in changed else "{}").format(" or ".join(values))
        for letter, values in said.items()
    }
    named = Markup('{} <span class="tag">runs differ</span>' if differ else "{}").format(name)
    return Setting({"setting": named, "default": default, **cells, "meaning": meaning}, differ, bool(changed))


def _said(value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return text(" × ".join(f"{part:.3g}" if isinstance(part, float) else text(part) for part in value))
    return text(value) or "(empty)"

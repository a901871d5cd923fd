"""Tables of the page, which can be sorted, and those of its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import isnan, nan
from statistics import fmean
from typing import NamedTuple

import numpy as np

from nnunet_topomae.report.health import state
from nnunet_topomae.report.models import COUNTS, Comparison, Model, mean_dice, result
from nnunet_topomae.report.runs import NETWORKS, Metrics, Run
from nnunet_topomae.report.segmentations import SegmentedCase

MAX_ROWS = 1000
DASH = "–"
Cell = str | float
Row = Mapping[str, Cell]  # by column


class Table(NamedTuple):
    """Cells are sorted by their number, or as text; `note` says what was left out."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


def table(title: str, rows: Sequence[Row]) -> Table:
    """Columns come as rows first name them; what a row does not have is NaN."""
    head = list(dict.fromkeys(column for row in rows for column in row))
    note = f"{len(rows) - MAX_ROWS} more are in the summary.json files." if len(rows) > MAX_ROWS else ""
    return Table(title, head, [[row.get(column, nan) for column in head] for row in rows[:MAX_ROWS]], note)


def shown(cell: Cell) -> str:
    """A number by four digits; a dash for what is none."""
    if isinstance(cell, str):
        return cell
    if isnan(cell):
        return DASH
    return f"{cell:,.0f}" if abs(cell) >= 10000 else f"{cell:.4g}"


def training_table(runs: Sequence[Run], cases: Sequence[SegmentedCase]) -> Table:
    """What is to be seen of each fold at a glance."""
    rows: list[Row] = []
    for run in runs:
        dice = {case.name: case.mean_dice[run.letter] for case in cases if run in case.runs}
        worst = min((name for name in dice if not isnan(dice[name])), key=lambda name: dice[name], default="")
        rows.append(
            {
                "run": run.name,
                "fold": run.fold,
                "validation": result(Model([run])),
                "worst case": f"{worst}: Dice {dice[worst]:.3f}" if worst else "",
                "state": state(run),
                "time": str(timedelta(seconds=round(np.nansum(run.epoch_seconds)))),
                "plans": f"{run.plans_name} {run.configuration}",
                "began with": ", then ".join(run.provenance),
                "folder": str(run.folder),
            }
        )
    return table("Trainings", rows)


def class_table(compared: Comparison) -> Table:
    """The paired differences of each class."""
    head = ("class", "difference of Dice", "from", "to (95 %)", "p", "cases", "left out")
    rows: list[list[Cell]] = [
        [row.name, row.mean, row.low, row.high, row.p_holm, len(row.cases), len(row.left_out)]
        for row in compared.classes
    ]
    return Table("By class", head, rows)


def metric_tables(runs: Sequence[Run], cases: Sequence[SegmentedCase]) -> list[Table]:
    """Means by class, every segmented case, every reconstructed case; without those that would be empty."""
    tables: dict[str, list[Row]] = {
        "Means by class": [
            {"run": run.name, "class": run.class_names.get(key, key), **_without_counts(values)}
            for run in runs
            if run.validation.files
            for key, values in run.validation.mean.items()
        ],
        "Segmented validation cases": [
            {"case": case.name, "run": run.name, **_of_classes(case.metrics[run.letter])}
            for case in cases
            for run in case.runs
        ],
        "Reconstructed validation cases": [
            {"case": case, "run": run.name, "network": NETWORKS.get(network, network), **values}
            for run in runs
            for case, networks in run.validation.cases.items()
            if case not in run.validation.files
            for network, values in networks.items()
        ],
    }
    return [table(title, rows) for title, rows in tables.items() if rows]


def _of_classes(metrics: Metrics) -> Row:
    """Dice of each class, and the means over the classes of whatever else is measured."""
    measured = {name: _without_counts(of_class) for name, of_class in metrics.items()}
    row = {"mean Dice": mean_dice(metrics)} | {f"Dice {name}": of.get("Dice", nan) for name, of in measured.items()}
    for name in dict.fromkeys(
        name for of_class in measured.values() for name in of_class if name not in ("Dice", "IoU")
    ):
        values = [value for of_class in measured.values() if not isnan(value := of_class.get(name, nan))]
        row[f"mean {name}"] = fmean(values) if values else nan
    return row


def _without_counts(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in COUNTS}

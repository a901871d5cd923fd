"""Numbers of the page, as tables that can be sorted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, isnan, nan
from statistics import fmean
from typing import NamedTuple

from nnunet_topomae.report.health import class_names
from nnunet_topomae.report.models import mean_dice
from nnunet_topomae.report.runs import COUNTS, NETWORKS, Run
from nnunet_topomae.report.segmentations import SegmentedCase

MAX_ROWS = 1000
MAX_COLUMNS = 16  # of classes, or of further metrics
DASH = "–"

Row = Sequence[str | float]


class Table(NamedTuple):
    """Cells are sorted by their number, or as text; `note` says what was left out."""

    title: str
    head: Sequence[str]
    rows: Sequence[Row]
    note: str = ""


def metric_tables(runs: Sequence[Run], cases: Sequence[SegmentedCase]) -> list[Table]:
    """Means by class, every segmented case, every reconstructed case; without those that would be empty."""
    tables = [_class_means(runs), _segmented_cases(cases), _reconstructed_cases(runs)]
    return [table for table in tables if table.rows]


def _class_means(runs: Sequence[Run]) -> Table:
    segmented = [run for run in runs if run.files]
    metrics = _metrics(values for run in segmented for values in run.mean.values())
    rows: list[Row] = [
        [run.name, class_names(run).get(key, key), *(values.get(metric, nan) for metric in metrics)]
        for run in segmented
        for key, values in run.mean.items()
    ]
    return _cut("Means by class", ["run", "class", *metrics], rows)


def _segmented_cases(cases: Sequence[SegmentedCase]) -> Table:
    """A row a case and run, the worst case first."""
    metrics = _metrics(values for case in cases for of_run in case.metrics.values() for values in of_run.values())
    others = [metric for metric in metrics if metric not in ("Dice", "IoU")]
    classes = list(dict.fromkeys(name for case in cases for of_run in case.metrics.values() for name in of_run))
    shown = classes[:MAX_COLUMNS]
    rows: list[Row] = []
    for case in cases:
        for run in case.runs:
            of_run = case.metrics[run.letter]
            dice = [of_run.get(name, {}).get("Dice", nan) for name in shown]
            rows.append([case.name, run.name, mean_dice(of_run), *dice, *(_mean(of_run, metric) for metric in others)])
    head = ["case", "run", "mean Dice", *(f"Dice {name}" for name in shown), *(f"mean {name}" for name in others)]
    left_out = len(classes) - len(shown)
    return _cut(
        "Segmented validation cases",
        head,
        rows,
        f"{left_out} more classes are in the table of means." if left_out else "",
    )


def _reconstructed_cases(runs: Sequence[Run]) -> Table:
    entries = [
        (case, run, NETWORKS.get(network, network), values)
        for run in runs
        for case, networks in run.cases.items()
        if case not in run.files
        for network, values in networks.items()
    ]
    metrics = _metrics(values for *_, values in entries)
    rows: list[Row] = [
        [case, run.name, network, *(values.get(metric, nan) for metric in metrics)]
        for case, run, network, values in entries
    ]
    head = ["case", "run", "network", *(metric.replace("_", " ") for metric in metrics)]
    return _cut("Reconstructed validation cases", head, rows)


def _cut(title: str, head: Sequence[str], rows: Sequence[Row], note: str = "") -> Table:
    more = len(rows) - MAX_ROWS
    notes = [f"{more} more rows are in the summary.json files." if more > 0 else "", note]
    return Table(title, head, rows[:MAX_ROWS], " ".join(filter(None, notes)))


def _metrics(entries: Iterable[Mapping[str, float]]) -> list[str]:
    """Names of the numbers that occur, counts of voxels left out."""
    names = dict.fromkeys(name for values in entries for name in values)
    return [name for name in names if name not in COUNTS][:MAX_COLUMNS]


def _mean(classes: Mapping[str, Mapping[str, float]], metric: str) -> float:
    defined = [value for of_class in classes.values() if not isnan(value := of_class.get(metric, nan))]
    return fmean(defined) if defined else nan


def shown(cell: str | float) -> str:
    """A number by four digits; a dash for what is none."""
    if isinstance(cell, str):
        return cell
    if isnan(cell):
        return DASH
    return f"{cell:,.0f}" if abs(cell) >= 10000 else f"{cell:.4g}"


def duration(seconds: float) -> str:
    if not isfinite(seconds):
        return ""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes // 60} h {minutes % 60:02d} min"

"""Numbers of the page, as tables that can be sorted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nnunet_topomae.report.runs import NETWORKS, Run
from nnunet_topomae.report.segmentations import case_metrics, class_names, numbers, segmented_cases

COUNTS = ("TP", "FP", "FN", "TN", "n_pred", "n_ref")
MAX_ROWS = 1000
MAX_CLASS_COLUMNS = 16
DASH = "–"


class Cell(NamedTuple):
    """What is shown, and the number that it is sorted by (text by itself)."""

    text: str
    number: float | None = None


class Table(NamedTuple):
    """`note` says what was left out."""

    title: str
    head: list[str]
    rows: list[list[Cell]]
    note: str = ""


def metric_tables(runs: Sequence[Run]) -> list[Table]:
    """Means by class, every segmented case, every reconstructed case; without those that would be empty."""
    tables = [_class_means(runs), _segmented_cases(runs), _reconstructed_cases(runs)]
    return [table for table in tables if table.rows]


def timing_table(runs: Sequence[Run]) -> Table:
    head = ["run", "device", "epochs", "median seconds an epoch", "slowest epoch", "all epochs", "seconds a step"]
    rows = []
    for run in runs:
        seconds = run.epoch_seconds
        if not len(seconds):
            continue
        median, steps = float(np.median(seconds)), run.setting("num_iterations_per_epoch")
        a_step = median / steps if isinstance(steps, (int, float)) and steps else math.nan
        rows.append(
            [
                Cell(run.name),
                Cell(str(run.debug.get("gpu_name") or run.debug.get("device", DASH))),
                number(len(seconds)),
                number(median),
                number(float(seconds.max())),
                Cell(duration(float(seconds.sum())), float(seconds.sum())),
                number(a_step),
            ]
        )
    note = "A step is the median epoch by its training steps, validation of the epoch included."
    return Table("Timing", head, rows, note)


def _class_means(runs: Sequence[Run]) -> Table:
    means = {
        run.letter: {class_names(run).get(key, key): numbers(values) for key, values in run.summary["mean"].items()}
        for run in runs
        if case_metrics(run)
    }
    metrics = _metrics(values for of_run in means.values() for values in of_run.values())
    rows = [
        [Cell(run.name), Cell(name), *(number(values.get(metric)) for metric in metrics)]
        for run in runs
        for name, values in means.get(run.letter, {}).items()
    ]
    return Table("Means by class", ["run", "class", *metrics], rows)


def _segmented_cases(runs: Sequence[Run]) -> Table:
    """A row a case and run, the worst case first."""
    by_run = {run.letter: case_metrics(run) for run in runs}
    everything = [values for cases in by_run.values() for classes in cases.values() for values in classes.values()]
    others = [metric for metric in _metrics(everything) if metric not in ("Dice", "IoU")]
    classes = list(dict.fromkeys(name for cases in by_run.values() for of_case in cases.values() for name in of_case))
    shown = classes[:MAX_CLASS_COLUMNS]
    rows = []
    for case in segmented_cases(runs):
        for run in case.runs:
            dice, metrics = case.dice[run.letter], by_run[run.letter][case.name]
            means = [_mean([of_class.get(metric) for of_class in metrics.values()]) for metric in others]
            rows.append(
                [
                    Cell(case.name),
                    Cell(run.name),
                    number(case.mean_dice[run.letter]),
                    *(number(dice.get(name)) for name in shown),
                    *map(number, means),
                ]
            )
    head = ["case", "run", "mean Dice", *(f"Dice {name}" for name in shown), *(f"mean {name}" for name in others)]
    left_out = [
        f"{len(rows) - MAX_ROWS} more rows are in the summary.json files." if len(rows) > MAX_ROWS else "",
        f"{len(classes) - len(shown)} more classes are in the table of means." if len(classes) > len(shown) else "",
    ]
    return Table("Segmented validation cases", head, rows[:MAX_ROWS], " ".join(filter(None, left_out)))


def _reconstructed_cases(runs: Sequence[Run]) -> Table:
    entries = [
        (run, str(entry["case"]), network, numbers(values))
        for run in runs
        for entry in run.summary.get("metric_per_case", ())
        if "case" in entry
        for network, values in entry["metrics"].items()
    ]
    metrics = _metrics(values for *_, values in entries)
    rows = [
        [
            Cell(case),
            Cell(run.name),
            Cell(NETWORKS.get(network, network)),
            *(number(values.get(metric)) for metric in metrics),
        ]
        for run, case, network, values in entries
    ]
    note = f"{len(rows) - MAX_ROWS} more rows are in the summary.json files." if len(rows) > MAX_ROWS else ""
    head = ["case", "run", "network", *(metric.replace("_", " ") for metric in metrics)]
    return Table("Reconstructed validation cases", head, rows[:MAX_ROWS], note)


def _metrics(entries: Iterable[dict[str, float]]) -> list[str]:
    """Names of the numbers that occur, counts of voxels left out."""
    names = dict.fromkeys(name for values in entries for name in values)
    return [name for name in names if name not in COUNTS]


def _mean(values: Sequence[float | None]) -> float:
    defined = [value for value in values if value is not None and not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def number(value: float | None) -> Cell:
    """Four digits; a dash for what is not there or not a number."""
    if value is None or math.isnan(value):
        return Cell(DASH, math.nan)
    return Cell(f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}", float(value))


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes // 60} h {minutes % 60:02d} min"

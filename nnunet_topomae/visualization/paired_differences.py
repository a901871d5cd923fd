"""Paired differences between folders of predictions, case by case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_topomae.evaluation.comparison import SIGNIFICANT, PairedDifference
from nnunet_topomae.evaluation.segmentation import MEASURES, ON_DEMAND
from nnunet_topomae.files import written_whole
from nnunet_topomae.visualization.palette import BLUE, MUTED_BLUE, VERMILION
from nnunet_topomae.visualization.text import plain

UNDECIDED = "0.35"
SHOWN = ("Dice", "NSD_1mm", "HD95", "betti_error", *ON_DEMAND)  # where they are measured


def save_paired_differences(
    path: str | Path, compared: Sequence[PairedDifference], units: Mapping[str, str], num_not_measured: int = 0
) -> None:
    """A row of panels a folder, a column a measure: a dot a case, the mean with its interval, the corrected p.

    Blue: better, by the corrected p and by the interval where there is one; orange: worse; grey: neither is decided.
    Classes that nobody has are left out, if there are others.
    """
    compared = [row for row in compared if row.measure in SHOWN]
    somewhere = {(row.other, row.label) for row in compared if row.cases or row.left_out}
    compared = [row for row in compared if (row.other, row.label) in somewhere] or compared
    others = list(dict.fromkeys(row.other for row in compared))
    shown = [measure for measure in SHOWN if any(row.measure == measure for row in compared)]
    num_classes = len({row.label for row in compared})
    height = 1.3 + 0.42 * num_classes
    figure = Figure(figsize=(3.6 * len(shown) + 1, height * len(others) + 0.6), layout="constrained")
    panels = figure.subplots(len(others), len(shown), squeeze=False, sharex="col", sharey="row")
    for line, other in zip(panels, others, strict=True):
        for axes, measure in zip(line, shown, strict=True):
            rows = [row for row in compared if row.other == other and row.measure == measure]
            _draw(axes, rows, units[measure])
        line[0].set_ylabel(f"{plain(other)}\n− {plain(rows[0].baseline)}", parse_math=False)
    for axes, measure in zip(panels[0], shown, strict=True):
        axes.set_title(measure)
    title = "Paired differences: a dot a case; mean, from 8 cases on with its 95 % bootstrap interval; Wilcoxon's p "
    title += "after Holm\nblue: better, orange: worse, grey: not decided"
    if num_not_measured:
        title += f". PARTIAL: {num_not_measured} cases could not be measured"
    figure.suptitle(title, fontsize=11)
    with written_whole(Path(path)) as partial:
        figure.savefig(partial, dpi=120)


def _draw(axes: Axes, rows: Sequence[PairedDifference], unit: str) -> None:
    better = 1 if MEASURES[rows[0].measure].more_is_better else -1
    axes.axvline(0, color="0.6", linewidth=1)
    jitter = np.random.default_rng(0)
    for position, row in enumerate(rows):
        heights = position + jitter.uniform(-0.18, 0.18, len(row.differences))
        axes.plot(row.differences, heights, "o", color=MUTED_BLUE, alpha=0.35, markersize=4, markeredgewidth=0)
        colour = colour_of(row)
        if not math.isnan(row.low):
            axes.plot([row.low, row.high], [position] * 2, color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(row.mean, position, "D", color=colour, markersize=6)
        place = axes.get_yaxis_transform()
        axes.text(1, position - 0.3, _note(row), transform=place, ha="right", fontsize=7, color="0.3")
    axes.set_yticks(range(len(rows)), [plain(row.name) for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.1)
    side = "right" if better > 0 else "left"
    axes.set_xlabel(f"difference{f' in {unit}' if unit else ''}, better to the {side}", fontsize=9)


def colour_of(row: PairedDifference) -> str:
    """Of its mean and interval."""
    if not row.is_decided:
        return UNDECIDED
    return BLUE if (row.mean > 0) == MEASURES[row.measure].more_is_better else VERMILION


def _note(row: PairedDifference) -> str:
    left_out = f", left out {len(row.left_out)}" if row.left_out else ""
    if math.isnan(row.p_holm):
        return f"n 0{left_out}"
    least = f" (least possible {row.p_least:.2g})" if row.p_least > SIGNIFICANT else ""
    p = "< 0.001" if row.p_holm < 0.001 else f"= {row.p_holm:.3f}"
    return f"p {p}{least}, n {len(row.cases)}{left_out}"

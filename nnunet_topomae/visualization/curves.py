"""Curves of trainings over their epochs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

FEW, RANGE = 30, 20  # epochs that are marked one by one; from this ratio of values on the axis is logarithmic


class Curve(NamedTuple):
    """A value an epoch, NaN where there is none; `label` for the legend."""

    values: Sequence[float] | np.ndarray
    colour: str
    style: str = "-"
    label: str = ""


def draw_curves(axes: Axes, title: str, curves: Iterable[Curve]) -> None:
    """Each as a line, from the end of the first epoch on; a legend where one has a label."""
    curves = list(curves)
    for values, colour, style, label in curves:
        marker = "." if len(values) < FEW else ""
        axes.plot(range(1, len(values) + 1), values, style, color=colour, marker=marker, label=label or "_", lw=1.4)
    every = np.concatenate([np.asarray(curve.values, dtype=float) for curve in curves])
    finite = every[np.isfinite(every)]
    if len(finite) and finite.min() > 0 and finite.max() / RANGE > finite.min():
        axes.set_yscale("log")
    axes.set_title(title, fontsize=12)
    axes.set_xlabel("epochs", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if any(curve.label for curve in curves):
        axes.legend(fontsize=9)

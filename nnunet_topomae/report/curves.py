"""Curves of all runs, one small figure a quantity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_topomae.report.runs import NETWORKS, Run
from nnunet_topomae.report.svg import inline_svg

MAX_POINTS = 400  # of a curve
NOT_PLOTTED = ("epoch_start_timestamps", "epoch_end_timestamps", "dice_per_class_or_region")
TITLES = {
    "lrs": "learning rate",
    "mean_fg_dice": "pseudo Dice (patches)",
    "ema_fg_dice": "pseudo Dice, moving average",
    "epoch_seconds": "seconds an epoch",
    "point_error_vit": "point error, ViT (voxels)",
    "point_error_partner": "point error, partner (voxels)",
}
Values = Callable[[Run], np.ndarray]


class Quantity(NamedTuple):
    """`curves` by style: solid for validation and what has no phase, dashed for training."""

    title: str
    curves: dict[str, Values]


def curve_figures(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    """Title and figure of everything that any run has logged."""
    figures = []
    for quantity in _quantities(runs):
        lines = [
            (run, style, values(run))
            for run in runs
            for style, values in quantity.curves.items()
            if len(values(run)) and np.isfinite(values(run)).any()
        ]
        if lines:
            figures.append((quantity.title, _figure(quantity.title, lines)))
    return figures


def _quantities(runs: Sequence[Run]) -> list[Quantity]:
    names = dict.fromkeys(name for run in runs for name in run.logging if name not in NOT_PLOTTED)
    phased = dict.fromkeys(name.partition("_")[2] for name in names if name.startswith(("train_", "val_")))
    quantities = []
    for name in phased:
        if name == "losses":  # one is a Dice and cross-entropy, the other a weighted sum of our terms
            quantities.append(Quantity("total loss, pre-training", _both_phases(name, only_pretraining=True)))
            quantities.append(Quantity("loss, segmentation", _both_phases(name, only_pretraining=False)))
        else:
            quantities.append(Quantity(_title(name), _both_phases(name)))
    for name in names:
        if not name.startswith(("train_", "val_")):
            quantities.append(Quantity(_title(name), {"-": _logged(name)}))
    return [*quantities, Quantity(TITLES["epoch_seconds"], {"-": lambda run: run.epoch_seconds})]


def _title(name: str) -> str:
    """`reconstruction_vit` is 'reconstruction, ViT'."""
    term, _, network = name.rpartition("_")
    words = f"{term}, {NETWORKS[network]}" if network in NETWORKS else name
    return TITLES.get(name, words.replace("_", " "))


def _both_phases(name: str, only_pretraining: bool | None = None) -> dict[str, Values]:
    return {
        "-": _logged(f"val_{name}", only_pretraining),
        "--": _logged(f"train_{name}", only_pretraining),
    }


def _logged(name: str, only_pretraining: bool | None = None) -> Values:
    def values(run: Run) -> np.ndarray:
        shown = only_pretraining in (None, run.is_pretraining)
        return run.curve(name) if shown else np.array([])

    return values


def _figure(title: str, lines: Sequence[tuple[Run, str, np.ndarray]]) -> Markup:
    figure = Figure(figsize=(4.0, 2.5), layout="constrained")
    axes = figure.add_subplot()
    for run, style, values in lines:
        epochs = np.arange(1, len(values) + 1)
        shown = np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_POINTS)).astype(int))
        marker = "." if len(values) < 30 else ""
        axes.plot(epochs[shown], values[shown], style, color=run.colour, marker=marker, linewidth=1.4)
    finite = np.concatenate([values[np.isfinite(values)] for *_, values in lines])
    if finite.min() > 0 and finite.max() > 20 * finite.min():
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return inline_svg(figure, f"{title}: {_in_words(lines)}")


def _in_words(lines: Sequence[tuple[Run, str, np.ndarray]]) -> str:
    """First and last value of each curve, for who does not see it."""
    parts = []
    for run, style, values in lines:
        finite = values[np.isfinite(values)]
        phase = ", training" if style == "--" else ""
        parts.append(f"{run.name}{phase}: {finite[0]:.4g} at first, {finite[-1]:.4g} at last")
    return "; ".join(parts)

"""Curves of all runs, one small figure a quantity; those that matter first."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_topomae.monitoring.instruments import DEAD_TOKEN_STD, TOKEN_STD
from nnunet_topomae.report.runs import NETWORKS, Run
from nnunet_topomae.report.svg import inline_svg

MAX_POINTS = 400  # of a curve
MOST_TELLING = 4
NOT_PLOTTED = ("epoch_start_timestamps", "epoch_end_timestamps", "dice_per_class_or_region")
SECONDS = "epoch_seconds"
TITLES = {
    "lrs": "learning rate",
    "ema_fg_dice": "pseudo Dice, moving average",
    SECONDS: "seconds an epoch",
    "point_error_vit": "point error, ViT (voxels)",
    "point_error_partner": "point error, partner (voxels)",
}


class Quantity(NamedTuple):
    """What one figure shows.

    Attributes:
        title: of the figure.
        curves: by the name in nnU-Net's log, the style of its line.
        meaning: a sentence.
        yardstick: a line across, where there is one.
        of_pretraining: of the runs that have such curves only those of one kind; None for both.
    """

    title: str
    curves: dict[str, str]
    meaning: str = ""
    yardstick: float = nan
    of_pretraining: bool | None = None

    def values(self, run: Run, name: str) -> np.ndarray:
        if self.of_pretraining not in (None, run.is_pretraining):
            return np.empty(0)
        values = run.epoch_seconds if name == SECONDS else run.curve(name)
        return values if np.isfinite(values).any() else np.empty(0)


BOTH_PHASES = {"val_losses": "-", "train_losses": "--"}
TELLING = (  # in this order; where the runs have more, the last ones are folded away with the rest
    Quantity(
        "pseudo Dice (patches)",
        {"mean_fg_dice": "-"},
        "Dice of random validation patches: whether it still rises says more than its height, which is not the cases'.",
    ),
    Quantity(
        "loss, segmentation",
        BOTH_PHASES,
        "Where training (dashed) goes on falling and validation (solid) rises, the training cases are learnt by heart.",
        of_pretraining=False,
    ),
    Quantity(
        "error over harmonic inpainting",
        {"error_over_harmonic_vit": "-", "error_over_harmonic_partner": ":"},
        "Solid: ViT, dotted: partner. Below 1 hidden voxels are filled better than by smoothing from what is around.",
        1.0,
    ),
    Quantity(
        "Betti error over harmonic inpainting",
        {"betti_over_harmonic_vit": "-", "betti_over_harmonic_partner": ":"},
        "Solid: ViT, dotted: partner. Below 1 the number of components, tunnels and cavities of a completed crop is "
        "nearer to the true one's than smoothing brings it.",
        1.0,
    ),
    Quantity(
        "point error over a constant's",
        {"points_over_constant_vit": "-", "points_over_constant_partner": ":"},
        "Solid: ViT, dotted: partner. Below 1 a network knows where a crop lies better than one answer for all does.",
        1.0,
    ),
    Quantity(
        "total loss, pre-training",
        BOTH_PHASES,
        "The weighted sum of all terms: comparable only between runs of the same weights.",
        of_pretraining=True,
    ),
    Quantity(
        "spread of the ViT's tokens",
        {TOKEN_STD: "-"},
        f"Below {DEAD_TOKEN_STD:g} the ViT says the same everywhere; in health it is 0.5 to 0.8.",
        DEAD_TOKEN_STD,
    ),
)


class CurveFigure(NamedTuple):
    """A figure as the page shows it."""

    title: str
    meaning: str
    figure: Markup


def curve_figures(runs: Sequence[Run]) -> tuple[list[CurveFigure], list[CurveFigure]]:
    """Those of the quantities that matter most, and all others that any run has logged."""
    figures = [_figure(quantity, lines) for quantity in _quantities(runs) if (lines := _lines(quantity, runs))]
    telling = [figure for figure in figures if figure.meaning][:MOST_TELLING]
    return telling, [figure for figure in figures if figure not in telling]


def _quantities(runs: Sequence[Run]) -> list[Quantity]:
    shown = {name for quantity in TELLING for name in quantity.curves}
    names = dict.fromkeys(name for run in runs for name in (*run.logging, SECONDS) if name not in NOT_PLOTTED)
    rest: dict[str, dict[str, str]] = {}
    for name in names:
        phase, _, term = name.partition("_")
        if name not in shown:
            key, style = (term, "--" if phase == "train" else "-") if phase in ("train", "val") else (name, "-")
            rest.setdefault(key, {})[name] = style
    return [*TELLING, *(Quantity(_title(name), curves) for name, curves in rest.items())]


def _title(name: str) -> str:
    """`reconstruction_vit` is 'reconstruction, ViT'."""
    term, _, network = name.rpartition("_")
    words = f"{term}, {NETWORKS[network]}" if network in NETWORKS else name
    return TITLES.get(name, words.replace("_", " "))


Line = tuple[Run, str, np.ndarray]


def _lines(quantity: Quantity, runs: Sequence[Run]) -> list[Line]:
    lines = [(run, style, quantity.values(run, name)) for run in runs for name, style in quantity.curves.items()]
    return [line for line in lines if len(line[2])]


def _figure(quantity: Quantity, lines: Sequence[Line]) -> CurveFigure:
    figure = Figure(figsize=(4.0, 2.5), layout="constrained")
    axes = figure.add_subplot()
    for run, style, values in lines:
        shown = np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_POINTS)).astype(int))
        marker = "." if len(values) < 30 else ""
        axes.plot(shown + 1, values[shown], style, color=run.colour, marker=marker, linewidth=1.4)
    if not isnan(quantity.yardstick):
        axes.axhline(quantity.yardstick, color="black", linewidth=1)
    finite = np.concatenate([values[np.isfinite(values)] for *_, values in lines])
    if finite.min() > 0 and finite.max() / 20 > finite.min():
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return CurveFigure(quantity.title, quantity.meaning, inline_svg(figure, f"{quantity.title}: {_in_words(lines)}"))


def _in_words(lines: Sequence[Line]) -> str:
    """First and last value of each curve, for who does not see it."""
    parts = []
    for run, style, values in lines:
        finite = values[np.isfinite(values)]
        kind = {"--": ", training", ":": ", partner"}.get(style, "")
        parts.append(f"{run.name}{kind}: {finite[0]:.4g} at first, {finite[-1]:.4g} at last")
    return "; ".join(parts)

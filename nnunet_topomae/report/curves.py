"""Curves of all runs, one small figure a quantity; those that matter first."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from nnunet_topomae.monitoring.instruments import DEAD_TOKEN_STD, TOKEN_STD
from nnunet_topomae.report.figures import embedded
from nnunet_topomae.report.runs import NETWORKS, Run
from nnunet_topomae.visualization.curves import Curve, draw_curves

MOST_TELLING = 4
NOT_PLOTTED = ("epoch_start_timestamps", "epoch_end_timestamps", "dice_per_class_or_region")
SECONDS = "epoch_seconds"


class Quantity(NamedTuple):
    """What one figure shows: curves by their name in nnU-Net's log with the style of their lines, a line across.

    With `of_pretraining` it is of the runs of one kind alone.
    """

    title: str
    curves: dict[str, str]
    meaning: str = ""
    yardstick: float = nan
    of_pretraining: bool | None = None

    def lines(self, runs: Sequence[Run]) -> list[Curve]:
        """Those that have a value."""
        of_kind = [run for run in runs if self.of_pretraining in (None, run.is_pretraining)]
        lines = [
            Curve(run.epoch_seconds if name == SECONDS else run.curve(name), run.colour, style)
            for run in of_kind
            for name, style in self.curves.items()
        ]
        return [line for line in lines if np.isfinite(line.values).any()]


def _of_networks(title: str, name: str, meaning: str) -> Quantity:
    curves = {f"{name}_vit": "-", f"{name}_partner": ":"}
    return Quantity(title, curves, f"Solid: ViT, dotted: partner. Below 1 {meaning}", 1.0)


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
    _of_networks(
        "error over harmonic inpainting",
        "error_over_harmonic",
        "hidden voxels are filled better than by smoothing from what is around.",
    ),
    _of_networks(
        "Betti error over harmonic inpainting",
        "betti_over_harmonic",
        "the number of components, tunnels and cavities of a completed crop is nearer to the true one's than smoothing "
        "brings it.",
    ),
    _of_networks(
        "point error over a constant's",
        "points_over_constant",
        "a network knows where a crop lies better than one answer for all does.",
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


Drawn = tuple[Quantity, Markup]


def curve_figures(runs: Sequence[Run]) -> tuple[list[Drawn], list[Drawn]]:
    """Those of the quantities that matter most, and all others that any run has logged."""
    drawn = [(quantity, _figure(quantity, lines)) for quantity in _quantities(runs) if (lines := quantity.lines(runs))]
    telling = sum(bool(quantity.meaning) for quantity, _ in drawn)  # which stand first
    return drawn[: min(MOST_TELLING, telling)], drawn[min(MOST_TELLING, telling) :]


def _quantities(runs: Sequence[Run]) -> list[Quantity]:
    """Those that tell something, then whatever else was logged, training (dashed) and validation in one."""
    shown = {*NOT_PLOTTED, *(name for quantity in TELLING for name in quantity.curves)}
    rest: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys(name for run in runs for name in (*run.logging, SECONDS)):
        if name not in shown:
            phase, _, term = name.partition("_")
            key = term if phase in ("train", "val") else name
            rest.setdefault(key, {})[name] = "--" if phase == "train" else "-"
    return [*TELLING, *(Quantity(_title(name), curves) for name, curves in rest.items())]


def _title(name: str) -> str:
    """`reconstruction_vit` is 'reconstruction, ViT'."""
    term, _, network = name.rpartition("_")
    words = f"{term}, {NETWORKS[network]}" if network in NETWORKS else name
    return words.replace("_", " ")


def _figure(quantity: Quantity, lines: Sequence[Curve]) -> Markup:
    figure = Figure(figsize=(4.0, 2.7), layout="constrained")
    axes = figure.add_subplot()
    draw_curves(axes, "", lines)
    if not isnan(quantity.yardstick):
        axes.axhline(quantity.yardstick, color="black", linewidth=1)
    return embedded(figure, f"Curves: {quantity.title}")

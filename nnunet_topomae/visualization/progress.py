"""The curves of one pre-training in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from nnunet_topomae.visualization.curves import Curve, draw_curves
from nnunet_topomae.visualization.palette import BLUE, GREEN, ORANGE, PINK

COLUMNS = 4
COLOURS = (BLUE, ORANGE, GREEN, PINK)


def save_progress_figure(
    path: str | Path, logging: Mapping[str, Sequence[float]], terms: Sequence[str], instruments: Sequence[str] = ()
) -> None:
    """A panel for the total loss, one for each kind of term and instrument, one each for learning rate and epoch time.

    Args:
        path: of the picture to write.
        logging: a value an epoch under `train_losses`, `val_losses`, `lrs`, `epoch_start_timestamps`,
            `epoch_end_timestamps` (seconds), and `train_<term>`, `val_<term>` for each term that was computed;
            what is NaN in every epoch was not.
        terms: names such as `reconstruction_vit`. Neighbours that differ in the last word alone share a panel.
        instruments: the same, of what is read off validation crops alone, under its name as it is.
    """
    panels = {"total loss": _phases(logging["train_losses"], logging["val_losses"], BLUE)}
    for kind, neighbours in groupby([*terms, *instruments], key=lambda term: term.rpartition("_")[0] or term):
        members = list(neighbours)
        kind = kind if len(members) > 1 else members[0]
        curves: list[Curve] = []
        for term, colour in zip(members, cycle(COLOURS), strict=False):
            validation = logging.get(term if term in instruments else f"val_{term}", [])
            curves += _phases(logging.get(f"train_{term}", []), validation, colour, term.removeprefix(kind))
        if shown := [curve for curve in curves if np.isfinite(curve.values).any()]:
            panels[kind.replace("_", " ")] = shown
    panels["learning rate"] = [Curve(logging["lrs"], BLUE)]
    ends = np.array(logging["epoch_end_timestamps"])
    panels["seconds an epoch"] = [Curve(ends - np.array(logging["epoch_start_timestamps"])[: len(ends)], BLUE)]

    with style.context("default"):  # not the fonts that nnU-Net has set for its own picture
        rows = -(-len(panels) // COLUMNS)
        figure = Figure(figsize=(4.2 * COLUMNS, 3.2 * rows), layout="constrained")
        for number, (title, drawn) in enumerate(panels.items(), 1):
            draw_curves(figure.add_subplot(rows, COLUMNS, number), title, drawn)
        figure.savefig(path, dpi=100)


def _phases(training: Sequence[float], validation: Sequence[float], colour: str, name: str = "") -> list[Curve]:
    """Of training, dashed, and of validation."""
    name = name.replace("_", " ")
    return [Curve(training, colour, "--", f"train{name}"), Curve(validation, colour, "-", f"val{name}")]

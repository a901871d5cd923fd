"""Curves of a pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_topomae.visualization.palette import BLUE, GREEN, ORANGE, PINK

PHASES = {"train": "--", "val": "-"}
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
    panels: dict[str, dict[str, Sequence[float]]] = {
        "total loss": {"train": logging["train_losses"], "val": logging["val_losses"]}
    }
    for kind, neighbours in groupby([*terms, *instruments], key=lambda term: term.rpartition("_")[0] or term):
        members = list(neighbours)
        kind = kind if len(members) > 1 else members[0]
        curves = {
            f"{phase} {term.removeprefix(kind).removeprefix('_')}".strip(): logging[name]
            for term in members
            for phase, name in (("train", f"train_{term}"), ("val", term if term in instruments else f"val_{term}"))
            if np.isfinite(logging.get(name, [])).any()
        }
        if curves:
            panels[kind.replace("_", " ")] = curves
    panels["learning rate"] = {"": logging["lrs"]}
    ends = np.array(logging["epoch_end_timestamps"])
    panels["seconds an epoch"] = {"": ends - np.array(logging["epoch_start_timestamps"])[: len(ends)]}

    with style.context("default"):  # not the fonts that nnU-Net has set for its own picture
        _figure(panels).savefig(path, dpi=100)


def _figure(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).flat
    for cell, (title, curves) in zip(cells, panels.items(), strict=False):
        _draw(cell, title, curves)
    for cell in list(figure.axes)[len(panels) :]:
        cell.remove()
    return figure


def _draw(cell: Axes, title: str, curves: Mapping[str, Sequence[float]]) -> None:
    """Solid for validation, dashed for training, a colour for each of the rest of the names."""
    variants = list(dict.fromkeys(name.partition(" ")[2] for name in curves))
    for name, values in curves.items():
        phase, _, variant = name.partition(" ")
        cell.plot(
            np.arange(len(values)),
            values,
            PHASES.get(phase, "-"),
            marker="." if len(values) < 30 else "",
            color=COLOURS[variants.index(variant) % len(COLOURS)],
            label=name,
        )
    every = np.concatenate([np.asarray(curve, dtype=float) for curve in curves.values()])
    finite = every[np.isfinite(every)]
    if len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
        cell.set_yscale("log")
    cell.set_title(title, fontsize=12)
    cell.set_xlabel("epoch", fontsize=10)
    cell.set_xlim(-0.5, max(map(len, curves.values())) - 0.5)
    cell.xaxis.set_major_locator(MaxNLocator(integer=True))
    cell.grid(alpha=0.3)
    if "" not in curves:
        cell.legend(fontsize=9)

"""Persistence diagrams of an input and a reconstruction with the matching between them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from nnunet_topomae.monitoring.panels import Panel
from nnunet_topomae.report.svg import inline_svg
from nnunet_topomae.topology import PersistenceDiagram, WassersteinResult, persistence_diagrams, squared_wasserstein
from nnunet_topomae.topology.plot import NAMES, matched_segments, plot_diagrams

SUBSCRIPTS = "₀₁₂"
MAX_SHOWN = 80  # pairs of the matching, those that cost most


class MatchedDiagrams(NamedTuple):
    """In one dimension: W2² of the diagrams, how many classes each has, and the figure."""

    title: str
    squared_distance: float
    classes: tuple[int, int]
    figure: Markup


def matched_diagrams(panel: Panel, network: str, name: str) -> list[MatchedDiagrams]:
    """Of a panel's input and its completed reconstruction, in intensities, as coarse as the panel is."""
    low, high = panel.window
    before, after = (
        persistence_diagrams(low + volume * np.float32((high - low) / 255))
        for volume in (panel.image, panel.completed[network])
    )
    compared = []
    for dimension, (a, b) in enumerate(zip(before, after, strict=True)):
        ours, theirs = a.finite(), b.finite()
        result = squared_wasserstein(theirs.points, ours.points)
        title = f"H{SUBSCRIPTS[dimension]} {NAMES[dimension]}"
        described = f"{name}, persistence diagram of {title}: W2² {result.cost:.3g}"
        classes = len(ours.birth), len(theirs.birth)
        figure = inline_svg(_draw(theirs, ours, result), described)
        compared.append(MatchedDiagrams(title, result.cost, classes, figure))
    return compared


def _draw(a: PersistenceDiagram, b: PersistenceDiagram, result: WassersteinResult) -> Figure:
    """The pairs that cost most."""
    cost = np.square(np.diff(matched_segments(a.points, b.points, result.matching), axis=1)).sum(axis=(1, 2))
    i, j = result.matching[np.argsort(-cost)[:MAX_SHOWN]].T
    numbered = [np.where(rows < 0, -1, np.cumsum(rows >= 0) - 1) for rows in (i, j)]
    figure = Figure(figsize=(3.0, 2.9), layout="constrained")
    matching = replace(result, matching=np.stack(numbered, axis=1))
    axes = plot_diagrams(a.where(i[i >= 0]), b.where(j[j >= 0]), matching, figure.add_subplot())
    if legend := axes.get_legend():
        legend.remove()
    return figure

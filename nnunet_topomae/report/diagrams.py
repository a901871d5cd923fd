"""Persistence diagrams of an input and a reconstruction with the matching between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from nnunet_topomae.monitoring.panels import Panel
from nnunet_topomae.report.svg import inline_svg
from nnunet_topomae.topology import persistence_diagrams, squared_wasserstein
from nnunet_topomae.visualization.palette import NETWORKS

DIMENSIONS = ("H₀ components", "H₁ tunnels", "H₂ cavities")
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
    for title, a, b in zip(DIMENSIONS, before, after, strict=True):
        ours, theirs = a.finite().points, b.finite().points
        result = squared_wasserstein(ours, theirs)
        described = f"{name}, persistence diagram of {title}: W2² {result.cost:.3g}"
        figure = inline_svg(_draw(ours, theirs, result.matching, NETWORKS[network]), described)
        compared.append(MatchedDiagrams(title, result.cost, (len(ours), len(theirs)), figure))
    return compared


def _draw(a: np.ndarray, b: np.ndarray, matching: np.ndarray, colour: str) -> Figure:
    """Circles for the input, crosses for the reconstruction, a line a pair; to the diagonal where a class is alone."""
    ends = np.stack([_ends(a, b, matching[:, 0], matching[:, 1]), _ends(b, a, matching[:, 1], matching[:, 0])], axis=1)
    cost = np.square(ends[:, 0] - ends[:, 1]).sum(axis=1)
    shown = np.argsort(-cost)[:MAX_SHOWN]
    figure = Figure(figsize=(3.0, 2.7), layout="constrained")
    axes = figure.add_subplot()
    axes.add_collection(LineCollection(ends[shown], colors="0.65", linewidths=0.7))
    for points, column, style, shade in ((a, 0, "o", "0.1"), (b, 1, "x", colour)):
        of_points = matching[shown, column]
        at = points[of_points[of_points >= 0]]
        axes.plot(*at.T, style, color=shade, markersize=3.8, markerfacecolor="none", markeredgewidth=1.1)
    if len(shown):
        low, high = ends[shown].min(), ends[shown].max()
        axes.plot([low, high], [low, high], color="0.3", linewidth=0.8)
    axes.set(xlabel="birth", ylabel="death")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _ends(points: np.ndarray, others: np.ndarray, rows: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """[k, 2]: each point, or, where there is none, its partner's foot on the diagonal."""
    ends = np.empty((len(rows), 2))
    there = rows >= 0
    ends[there] = points[rows[there]]
    ends[~there] = others[partners[~there]].mean(axis=1, keepdims=True)
    return ends

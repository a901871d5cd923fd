"""One picture: a diagram, several, or two with their matching."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from .persistence import PersistenceDiagram, check_comparable, check_diagram
from .wasserstein import WassersteinResult

COLOURS = ("tab:blue", "tab:orange", "tab:green")
NAMES = ("components", "tunnels", "cavities")


def plot_diagrams(
    diagrams: PersistenceDiagram | Sequence[PersistenceDiagram],
    other: PersistenceDiagram | None = None,
    result: WassersteinResult | None = None,
    axis: Axes | None = None,
) -> Axes:
    """Draw a diagram, or those of several dimensions, or one beside another with the matching between them.

    Classes that never die are triangles on the upper edge (below, for superlevel sets).

    Args:
        diagrams: one, or for example all that `persistence_diagrams` returned.
        other: a diagram to compare with, of the same dimension.
        result: `squared_wasserstein(diagrams, other)`: pairs are red lines, points alone have grey ones.
        axis: where to draw; a new figure if None.
    """
    diagrams = [diagrams] if isinstance(diagrams, PersistenceDiagram) else list(diagrams)
    drawn = diagrams if other is None else [*diagrams, other]
    if not drawn:
        raise ValueError("there is no diagram to draw")
    for diagram in drawn:
        check_diagram(diagram)
    if other is None and result is not None or other is not None and len(diagrams) != 1:
        raise ValueError("a matching is between one diagram and one other: give one diagram, `other` and `result`")
    if other is not None:
        check_comparable(diagrams[0], other)
    axis = axis or plt.figure(figsize=(4.4, 4.4), layout="constrained").add_subplot()
    least, largest = _range(drawn)
    if other is not None and result is not None:
        lines = matched_segments(diagrams[0].points, other.points, result.matching)
        colours = np.where((result.matching >= 0).all(axis=1), "tab:red", "0.7")
        shown = np.isfinite(lines).all(axis=(1, 2))
        axis.add_collection(LineCollection(lines[shown], colors=colours[shown], linewidths=0.8, zorder=0))
    label_essential: str | None = "never dies"
    for k, diagram in enumerate(drawn):
        label = None if diagram.dimension is None else f"D{diagram.dimension}: {NAMES[diagram.dimension]}"
        colour = COLOURS[k % 3 if diagram.dimension is None else diagram.dimension]
        if other is not None:
            label, colour = ("first", "tab:orange") if k == 0 else ("second", "black")
        finite = diagram.where(np.isfinite(diagram.death))
        axis.scatter(finite.birth, finite.death, s=6, color=colour, linewidths=0, label=label, zorder=2)
        births = diagram.birth[np.isinf(diagram.death)]
        edge, marker = (least, "v") if diagram.superlevel else (largest, "^")
        if len(births):
            axis.plot(births, np.full(len(births), edge), marker, color=colour, clip_on=False, label=label_essential)
            label_essential = None  # once is enough
    axis.plot([least, largest], [least, largest], color="black", linewidth=0.6, zorder=1)
    axis.set(xlabel="birth", ylabel="death", aspect="equal", xlim=(least, largest), ylim=(least, largest))
    axis.legend(fontsize=8, markerscale=1.5, loc="upper left" if diagrams[0].superlevel else "lower right")
    return axis


def _range(diagrams: Sequence[PersistenceDiagram]) -> tuple[float, float]:
    """All finite values, with a margin."""
    values = np.concatenate([diagram.points.ravel() for diagram in diagrams])
    values = values[np.isfinite(values)]
    least, largest = (values.min(), values.max()) if values.size else (0.0, 1.0)
    margin = 0.05 * (largest - least) or 1.0
    return least - margin, largest + margin


def matched_segments(a: np.ndarray, b: np.ndarray, matching: np.ndarray) -> np.ndarray:
    """[k, 2, 2]: for each row of a matching its point of `a` [n, 2] and that of `b` [m, 2].

    In the place of the diagonal (−1) stands the other point's foot on it. Raises ValueError where the matching is of
    other points.
    """
    for points, rows in zip((a, b), matching.T, strict=True):
        if not np.array_equal(np.sort(rows[rows >= 0]), np.arange(len(points))):
            raise ValueError("the matching is of other diagrams: give the result of `squared_wasserstein` of these two")
    i, j = matching.T
    foot = np.full((1, 2), np.nan)
    start, end = np.concatenate([a, foot])[i], np.concatenate([b, foot])[j]  # −1 takes the last row
    start[i < 0] = end[i < 0].mean(axis=1, keepdims=True)
    end[j < 0] = start[j < 0].mean(axis=1, keepdims=True)
    return np.stack([start, end], axis=1)

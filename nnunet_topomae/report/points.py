"""The nine points of a crop in its volume, true and predicted, seen along the diagonal of the volume."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from nnunet_topomae.monitoring.panels import Panel

CORNERS = np.array(list(product((0.0, 1.0), repeat=3)))  # of the unit cube, in the order of `nine_points`
EDGES = [(a, b) for a, b in combinations(range(8), 2) if np.abs(CORNERS[a] - CORNERS[b]).sum() == 1]
TO_PAGE = np.array([[0, -1], [-np.sqrt(3) / 2, 0.5], [np.sqrt(3) / 2, 0.5]])  # D up, H to the left, W to the right
SIZE = 300  # of the longer side of the figure
Place = tuple[float, float]


class PointsFigure(NamedTuple):
    """What the macro `points_of` of the page draws, in its coordinates.

    Attributes:
        box: width and height.
        volume, truth: as the path of an SVG, edges of the volume and of the crop.
        axes: where the names D, H, W stand.
        true: the nine points.
        predicted: by epoch and network.
        errors: mean distance in mm after the last epoch, by network.
    """

    box: Place
    volume: str
    truth: str
    axes: dict[str, Place]
    true: list[Place]
    predicted: dict[int, dict[str, list[Place]]]
    errors: dict[str, float]


def points_figure(panels: Sequence[Panel]) -> PointsFigure:
    """Of the panels of one crop, in the order of epochs."""
    last = panels[-1]
    extent = last.volume_shape * last.spacing  # mm
    predicted = {  # those of a network that has diverged lie nowhere
        panel.epoch: {name: points for name, points in panel.predicted_points.items() if np.isfinite(points).all()}
        for panel in panels
    }
    everything = [last.points, CORNERS, *(points for networks in predicted.values() for points in networks.values())]
    flat = np.concatenate([points * extent @ TO_PAGE for points in everything])
    low, scale = flat.min(axis=0), SIZE / np.ptp(flat, axis=0).max()

    def place(points: np.ndarray) -> list[Place]:
        return [(round(x, 1), round(y, 1)) for x, y in ((points * extent @ TO_PAGE - low) * scale).tolist()]

    width, height = np.ptp(flat, axis=0) * scale
    corners, true = place(CORNERS), place(last.points)
    return PointsFigure(
        (round(width), round(height)),
        _edges(corners),
        _edges(true[1:]),
        {"D": corners[4], "H": corners[2], "W": corners[1]},
        true,
        {epoch: {name: place(points) for name, points in networks.items()} for epoch, networks in predicted.items()},
        {
            name: float(np.linalg.norm((points - last.points) * extent, axis=1).mean())
            for name, points in last.predicted_points.items()
        },
    )


def _edges(corners: Sequence[Place]) -> str:
    return "".join("M{} {}L{} {}".format(*corners[a], *corners[b]) for a, b in EDGES)

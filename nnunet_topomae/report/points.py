"""The nine points of a crop in its volume, true and predicted, seen along the diagonal of the volume."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, product

import numpy as np
from markupsafe import Markup, escape

from nnunet_topomae.monitoring.panels import Panel
from nnunet_topomae.visualization.palette import NETWORKS

CORNERS = np.array(list(product((0.0, 1.0), repeat=3)))  # of the unit cube, in the order of `nine_points`
EDGES = [(a, b) for a, b in combinations(range(8), 2) if np.abs(CORNERS[a] - CORNERS[b]).sum() == 1]
TO_PAGE = np.array([[0, -1], [-np.sqrt(3) / 2, 0.5], [np.sqrt(3) / 2, 0.5]])  # D up, H to the left, W to the right
SIZE = 300  # of the longer side of the figure


def points_figure(panels: Sequence[Panel], description: str) -> Markup:
    """An SVG with a group an epoch, of which `page.js` shows one; without it the last is seen.

    Args:
        panels: of one crop, in the order of epochs.
        description: for who does not see it.
    """
    last = panels[-1]
    extent = last.volume_shape * last.spacing
    everything = [last.points, *(points for panel in panels for points in panel.predicted_points.values()), CORNERS]
    flat = np.concatenate([_project(points, extent) for points in everything])
    low, scale = flat.min(axis=0), SIZE / np.ptp(flat, axis=0).max()

    def place(points: np.ndarray) -> np.ndarray:
        return (_project(points, extent) - low) * scale

    width, height = np.ptp(flat, axis=0) * scale
    truth = place(last.points)
    parts = [_edges(place(CORNERS), "volume"), _axis_names(place(CORNERS)), _edges(truth[1:], "truth")]
    parts += [f'<circle class="truth" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in truth]
    for panel in panels:
        hidden = "" if panel is last else ' style="display:none"'
        parts.append(f'<g data-epoch="{panel.epoch}"{hidden}>')
        for network, points in panel.predicted_points.items():
            parts += _prediction(place(points), truth, network)
        parts.append("</g>")
    box = f"-14 -18 {width + 38:.0f} {height + 32:.0f}"  # room for the names of the axes
    return Markup(
        f'<svg class="points" role="img" aria-label="{escape(description)}" viewBox="{box}">{"".join(parts)}</svg>'
    )


def point_errors(panel: Panel) -> dict[str, float]:
    """Mean distance of predicted and true points in mm, by network."""
    unit = panel.volume_shape * panel.spacing
    return {
        network: float(np.linalg.norm((points - panel.points) * unit, axis=1).mean())
        for network, points in panel.predicted_points.items()
    }


def _project(points: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """[n, 3] in coordinates of the volume to [n, 2] on the page, in mm."""
    return (points * extent) @ TO_PAGE


def _prediction(points: np.ndarray, truth: np.ndarray, network: str) -> Iterable[str]:
    colour = NETWORKS[network]
    for (x, y), (u, v) in zip(points, truth, strict=True):
        yield f'<path class="error" stroke="{colour}" d="M{u:.1f} {v:.1f}L{x:.1f} {y:.1f}"/>'
    for x, y in points:  # the shapes differ too, for who does not tell the colours apart
        yield (
            f'<circle fill="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
            if network == "vit"
            else f'<rect fill="{colour}" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>'
        )


def _edges(corners: np.ndarray, kind: str) -> str:
    lines = "".join(
        f"M{corners[a][0]:.1f} {corners[a][1]:.1f}L{corners[b][0]:.1f} {corners[b][1]:.1f}" for a, b in EDGES
    )
    return f'<path class="{kind}" d="{lines}"/>'


def _axis_names(corners: np.ndarray) -> str:
    """At the far ends of the edges that leave the volume's first voxel."""
    ends = {"D": corners[4], "H": corners[2], "W": corners[1]}
    return "".join(f'<text x="{x + 4:.1f}" y="{y - 4:.1f}">{name}</text>' for name, (x, y) in ends.items())

"""Validation crops over the epochs of pre-trainings: what was hidden, and what the networks made of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from nnunet_topomae.monitoring.panels import Panel
from nnunet_topomae.report.figures import embedded
from nnunet_topomae.report.runs import NETWORKS, Run
from nnunet_topomae.topology import PersistenceDiagram, WassersteinResult, persistence_diagrams, squared_wasserstein
from nnunet_topomae.topology.plot import NAMES, plot_diagrams
from nnunet_topomae.visualization.slices import Tile, plane_name, slices_figure

WINDOW = {"vmin": 0.0, "vmax": 255.0}  # a panel's volumes are bytes
MAX_EPOCHS = 4  # shown of a run


Shown = list[tuple[Run, list[Panel]]]  # the same crop under the same mask, after some epochs of each run


def reconstructed_cases(runs: Sequence[Run]) -> list[tuple[str, Shown]]:
    """Crops with the names of their cases, of at most MAX_EPOCHS. Runs share one where image and mask are equal."""
    groups: dict[tuple[str, bytes, bytes], dict[str, list[Panel]]] = {}
    for run in runs:
        for panel in run.panels:
            crop = (panel.case, panel.image.tobytes(), panel.mask.tobytes())
            groups.setdefault(crop, {}).setdefault(run.letter, []).append(panel)
    return [
        (name, [(run, _spread(panels[run.letter])) for run in runs if run.letter in panels])
        for (name, *_), panels in groups.items()
    ]


def _spread(panels: Sequence[Panel]) -> list[Panel]:
    """First, last and some between."""
    indices = np.unique(np.linspace(0, len(panels) - 1, min(len(panels), MAX_EPOCHS)).round().astype(int))
    return [panels[index] for index in indices]


def reconstruction_figure(crop: Shown) -> Figure:
    """A row a network of each run: input, masked input, and what it made of it over the epochs, in the middle slice."""
    panel = crop[0][1][0]
    place = 0, len(panel.image) // 2, panel.voxel_size.tolist(), WINDOW
    first = [
        Tile(panel.image, *place, f"input, {plane_name(0)}"),
        Tile(np.ma.array(panel.image, mask=panel.mask), *place, f"{panel.mask.mean():.0%} hidden"),
    ]
    rows, names = [], []
    for run, panels in crop:
        for network, name in NETWORKS.items():
            titled = {f"epoch {p.epoch}, MSE {p.masked_mse[network]:.3g}": p.completed[network] for p in panels}
            rows.append(first + [Tile(volume, *place, title) for title, volume in titled.items()])
            names.append(f"{run.letter}, {name}")
    return slices_figure(rows, names)


Matched = tuple[PersistenceDiagram, PersistenceDiagram, WassersteinResult]


def matched_diagrams(panel: Panel, network: str) -> list[Matched]:
    """By dimension, finite classes of a panel's input and of its reconstruction, in intensities, and their matching."""
    low, high = panel.window
    before, after = (
        persistence_diagrams(low + volume * np.float32((high - low) / 255))
        for volume in (panel.image, panel.completed[network])
    )
    pairs = [(a.finite(), b.finite()) for a, b in zip(before, after, strict=True)]
    return [(a, b, squared_wasserstein(b.points, a.points)) for a, b in pairs]


def diagrams_figure(panel: Panel, network: str) -> Figure:
    """The matching between the diagrams of a panel's input (black) and its reconstruction (orange), by dimension."""
    compared = matched_diagrams(panel, network)
    figure = Figure(figsize=(3.2 * len(compared), 3.5), layout="constrained")
    for axes, name, (true, made, result) in zip(figure.subplots(1, len(compared)), NAMES, compared, strict=True):
        plot_diagrams(made, true, result, axes)
        axes.get_legend().remove()
        counts = f"{len(true.birth)} true, {len(made.birth)} reconstructed"
        axes.set_title(f"{name}: W₂² {result.cost:.3g}\n{counts}", fontsize=10)
    return figure


def reconstruction_pictures(name: str, crop: Shown) -> tuple[Markup, list[tuple[str, Markup]]]:
    """The crop over the epochs; and the diagrams after the last one of each run and network, with their names."""
    diagrams = []
    for run, panels in crop:
        for network in NETWORKS:
            title = f"{run.name}, {NETWORKS[network]}, epoch {panels[-1].epoch}"
            picture = embedded(diagrams_figure(panels[-1], network), f"Persistence diagrams of {name}: {title}")
            diagrams.append((title, picture))
    return embedded(reconstruction_figure(crop), f"{name}: input, masked input, reconstructions"), diagrams

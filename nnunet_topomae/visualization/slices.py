"""Slices of volumes beside each other, in one scale: grey, what was hidden in blue, labels in colours over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_topomae.visualization.palette import CLASSES, MUTED_BLUE

AXES = "DHW"
GREY = colormaps["gray"].with_extremes(bad=MUTED_BLUE)
INCHES = 2.4  # of the longest side of a tile


@dataclass(frozen=True)
class Tile:
    """One slice of a volume.

    Attributes:
        volume: [D, H, W]; masked voxels of a masked array are blue.
        axis, index: of the slice.
        spacing: of the axes D, H, W in mm.
        window: the intensities that are black and white.
        title: stands above, as it is, without formulas (see `visualization.text.plain` for names from data).
        labels: [D, H, W], over the volume where they are not 0.
        colours: of the labels 1, 2, ...; after the last one they begin again.
    """

    volume: np.ndarray
    axis: int
    index: int
    spacing: Sequence[float]
    window: Mapping[str, float]
    title: str = ""
    labels: np.ndarray | None = None
    colours: Sequence[str] = CLASSES

    @property
    def size(self) -> tuple[float, float]:
        """Height and width in mm."""
        rows, columns = plane_axes(self.axis)
        return self.volume.shape[rows] * self.spacing[rows], self.volume.shape[columns] * self.spacing[columns]


def slices_figure(
    rows: Sequence[Sequence[Tile]], names: Sequence[str], title: str = "", legend: Mapping[str, str] | None = None
) -> Figure:
    """Rows of tiles, each with its name at the left; below them what each colour of `legend` stands for, by name."""
    sizes = np.zeros((len(rows), max(map(len, rows)), 2))
    for number, row in enumerate(rows):
        sizes[number, : len(row)] = [tile.size for tile in row]
    heights, widths = sizes[..., 0].max(axis=1), sizes[..., 1].max(axis=0)
    inches = INCHES / sizes.max()
    titles = sum(any(tile.title for tile in row) for row in rows)
    extent = inches * widths.sum() + 0.4, inches * heights.sum() + 0.5 * titles + 0.4 * bool(title) + 0.4 * bool(legend)
    figure = Figure(figsize=extent, layout="constrained")
    figure.suptitle(title, fontsize=13, parse_math=False)
    ratios = {"height_ratios": heights, "width_ratios": widths}
    grid = figure.subplots(len(heights), len(widths), squeeze=False, gridspec_kw=ratios)
    for cells, row, name in zip(grid, rows, names, strict=True):
        for cell, tile in zip_longest(cells, row):
            if tile is None:
                cell.remove()
            else:
                _draw(cell, tile)
        cells[0].set_ylabel(name, fontsize=10, parse_math=False)
    if legend:
        handles = [Patch(color=colour, label=name) for name, colour in legend.items()]
        drawn = figure.legend(handles, list(legend), loc="outside lower center", ncols=8, fontsize=10, frameon=False)
        for text in drawn.get_texts():
            text.set_parse_math(False)
    return figure


def _draw(cell: Axes, tile: Tile) -> None:
    rows, columns = plane_axes(tile.axis)
    pictures = [np.ma.take(tile.volume, tile.index, tile.axis)]
    if tile.labels is not None:
        labels = tile.labels.take(tile.index, tile.axis)
        pictures.append(np.zeros((*labels.shape, 4)))
        for label in np.unique(labels[labels > 0]):
            pictures[1][labels == label] = to_rgba(tile.colours[(int(label) - 1) % len(tile.colours)], alpha=0.75)
    aspect, low, high = tile.spacing[rows] / tile.spacing[columns], tile.window["vmin"], tile.window["vmax"]
    for picture in pictures:
        cell.imshow(picture, GREY, aspect=aspect, interpolation="nearest", vmin=low, vmax=high)
    cell.set_title(tile.title, fontsize=10, parse_math=False)
    cell.set(xticks=[], yticks=[])
    cell.spines[:].set_visible(False)


def plane_axes(axis: int) -> tuple[int, int]:
    """The two axes, in order, that a slice across `axis` shows as rows and columns."""
    first, second = (other for other in range(3) if other != axis)
    return first, second


def plane_name(axis: int) -> str:
    """For instance 'H × W' for slices across D."""
    return " × ".join(AXES[other] for other in plane_axes(axis))


def grey_window(image: np.ndarray) -> dict[str, float]:
    """`vmin` and `vmax` for `Axes.imshow`: all but the 0.1 % darkest and brightest voxels."""
    low, high = np.percentile(image, (0.1, 99.9))
    return {"vmin": float(low), "vmax": float(high)}

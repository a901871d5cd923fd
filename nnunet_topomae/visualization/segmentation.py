"""References and predictions side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_topomae.visualization.palette import CLASSES
from nnunet_topomae.visualization.slices import bare, grey_window, plane_aspect, plane_name


class SegmentedCase(NamedTuple):
    """`image`, `reference` and `prediction` are [D, H, W], the latter two labels with 0 for background."""

    name: str
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    spacing: Sequence[float] = (1.0, 1.0, 1.0)


def save_segmentation_figure(path: str | Path, cases: Sequence[SegmentedCase], label_names: Mapping[int, str]) -> None:
    """A row a case: image, reference, prediction, in the slices across D and across H that show most classes."""
    columns = [(axis, what) for axis in (0, 1) for what in ("image", "reference", "prediction")]
    figure = Figure(figsize=(2.4 * len(columns), 2.5 * len(cases) + 0.9), layout="constrained")
    for row, case in zip(figure.subplots(len(cases), len(columns), squeeze=False), cases, strict=True):
        for cell, (axis, what) in zip(row, columns, strict=True):
            index = fullest_slice(case.reference, axis)
            labels = None if what == "image" else getattr(case, what).take(index, axis)
            draw_slice(
                cell, case.image.take(index, axis), labels, plane_aspect(axis, case.spacing), grey_window(case.image)
            )
            cell.set_title(f"{plane_name(axis)}, slice {index}" if what == "image" else what, fontsize=11)
        row[0].set_ylabel(case.name, fontsize=11)
    add_legend(figure, label_names)
    figure.savefig(path, dpi=100)


def draw_slice(
    cell: Axes, image: np.ndarray, labels: np.ndarray | None, aspect: float, window: Mapping[str, float]
) -> None:
    """A slice of an image in grey, and of its labels in colour."""
    cell.imshow(image, "gray", aspect=aspect, interpolation="nearest", **window)
    if labels is not None:
        overlay = np.zeros((*labels.shape, 4))
        for label in np.unique(labels[labels > 0]):
            overlay[labels == label] = to_rgba(colour(int(label)), alpha=0.75)
        cell.imshow(overlay, aspect=aspect, interpolation="nearest")
    bare(cell)


def add_legend(figure: Figure, label_names: Mapping[int, str]) -> None:
    """What the colours stand for, below."""
    legend = [Patch(color=colour(label), label=name) for label, name in sorted(label_names.items()) if label]
    figure.legend(handles=legend, loc="outside lower center", ncols=min(len(legend), 8), fontsize=12, frameon=False)


def colour(label: int) -> str:
    """Of a class, in every picture."""
    return CLASSES[(label - 1) % len(CLASSES)]


def fullest_slice(labels: np.ndarray, axis: int) -> int:
    """The slice with most classes, and among those with most labelled voxels."""
    slices = np.moveaxis(labels, axis, 0)
    return max(range(len(slices)), key=lambda i: (len(np.unique(slices[i])), np.count_nonzero(slices[i])))

"""The method in one row a case: input, what was hidden of it, reconstructions, reference, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from nnunet_topomae.visualization.palette import MUTED_BLUE
from nnunet_topomae.visualization.segmentation import add_legend, draw_slice, fullest_slice
from nnunet_topomae.visualization.slices import grey_window, plane_aspect, plane_name


class MethodRow(NamedTuple):
    """One crop; all volumes are [D, H, W].

    Attributes:
        name: of the case.
        image: what was to be reconstructed.
        mask: bool, True where the networks saw nothing.
        reconstructions: by network.
        reference: labels, 0 for background.
        predictions: labels, by what they come from.
        spacing: of the axes D, H, W in mm.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    reconstructions: Mapping[str, np.ndarray]
    reference: np.ndarray
    predictions: Mapping[str, np.ndarray]
    spacing: Sequence[float] = (1.0, 1.0, 1.0)


def save_method_figure(path: str | Path, rows: Sequence[MethodRow], label_names: Mapping[int, str]) -> None:
    """A row a crop, in the slice across D that shows most classes."""
    columns = 3 + len(rows[0].reconstructions) + len(rows[0].predictions)
    figure = Figure(figsize=(2.2 * columns, 2.4 * len(rows) + 0.9), layout="constrained")
    for cells, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        index, window, aspect = fullest_slice(row.reference, 0), grey_window(row.image), plane_aspect(0, row.spacing)
        pictures = {
            "input": (row.image, None),
            "masked input": (np.ma.array(row.image, mask=row.mask), None),
            **{f"reconstruction,\n{name}": (volume, None) for name, volume in row.reconstructions.items()},
            "reference": (row.image, row.reference),
            **{f"prediction,\n{name}": (row.image, labels) for name, labels in row.predictions.items()},
        }
        for cell, (title, (volume, labels)) in zip(cells, pictures.items(), strict=True):
            cell.set_facecolor(MUTED_BLUE)
            draw_slice(cell, volume[index], None if labels is None else labels[index], aspect, window)
            cell.set_title(title, fontsize=11)
        cells[0].set_ylabel(f"{row.name}\n{plane_name(0)}, slice {index}", fontsize=10)
    add_legend(figure, label_names)
    figure.savefig(path, dpi=100)

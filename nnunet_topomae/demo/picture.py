"""The method in one row a case: input, what was hidden of it, reconstructions, reference, prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_topomae.files import written_whole
from nnunet_topomae.visualization.palette import CLASSES, MUTED_BLUE
from nnunet_topomae.visualization.slices import bare, grey_window, plane_aspect, plane_name
from nnunet_topomae.visualization.text import plain

Volume = npt.NDArray[Any]


class MethodRow(NamedTuple):
    """One crop; all volumes are [D, H, W].

    Attributes:
        name: of the case.
        image: what was to be reconstructed.
        mask: bool, True where the networks saw nothing.
        reconstructions: by network.
        reference, prediction: labels, 0 for background.
        spacing: of the axes D, H, W in mm.
    """

    name: str
    image: Volume
    mask: Volume
    reconstructions: Mapping[str, Volume]
    reference: Volume
    prediction: Volume
    spacing: Sequence[float] = (1.0, 1.0, 1.0)


def save_method_figure(path: Path, rows: Sequence[MethodRow], label_names: Mapping[int, str]) -> None:
    """A row a crop, in the slice across D that shows most classes."""
    columns = 4 + len(rows[0].reconstructions)
    figure = Figure(figsize=(2.2 * columns, 2.4 * len(rows) + 0.9), layout="constrained")
    for cells, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        index, aspect, window = _fullest_slice(row.reference), plane_aspect(0, row.spacing), grey_window(row.image)
        pictures = {
            "input": (row.image, None),
            "masked input": (np.ma.array(row.image, mask=row.mask), None),
            **{f"reconstruction,\n{name}": (volume, None) for name, volume in row.reconstructions.items()},
            "reference": (row.image, row.reference),
            "prediction": (row.image, row.prediction),
        }
        for cell, (title, (volume, labels)) in zip(cells, pictures.items(), strict=True):
            cell.set_facecolor(MUTED_BLUE)
            cell.imshow(volume[index], "gray", aspect=aspect, interpolation="nearest", **window)
            if labels is not None:
                cell.imshow(_overlay(labels[index]), aspect=aspect, interpolation="nearest")
            cell.set_title(title, fontsize=11)
            bare(cell)
        cells[0].set_ylabel(f"{plain(row.name)}\n{plane_name(0)}, slice {index}", fontsize=10, parse_math=False)
    handles = [Patch(color=_colour(label)) for label in sorted(label_names)]
    names = [plain(label_names[label]) for label in sorted(label_names)]
    legend = figure.legend(handles, names, loc="outside lower center", ncols=8, fontsize=12, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=100)


def _fullest_slice(labels: Volume) -> int:
    """The slice with most classes, and among those with most labelled voxels."""
    return max(range(len(labels)), key=lambda i: (len(np.unique(labels[i])), np.count_nonzero(labels[i])))


def _overlay(labels: Volume) -> Volume:
    """Colours [H, W, 4] of classes, clear where there is none."""
    overlay = np.zeros((*labels.shape, 4))
    for label in np.unique(labels[labels > 0]):
        overlay[labels == label] = to_rgba(_colour(int(label)), alpha=0.75)
    return overlay


def _colour(label: int) -> str:
    return CLASSES[(label - 1) % len(CLASSES)]

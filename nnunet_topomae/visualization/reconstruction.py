"""What a masked autoencoder saw and what it made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from nnunet_topomae.visualization.palette import MUTED_BLUE
from nnunet_topomae.visualization.slices import bare, grey_window, plane_aspect, plane_name, plane_size
from nnunet_topomae.visualization.text import plain


def save_reconstruction_figure(
    path: str | Path,
    image: np.ndarray,
    voxel_mask: np.ndarray,
    reconstructions: Mapping[str, np.ndarray],
    title: str = "",
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> None:
    """Columns: input, masked input, each reconstruction; rows: the three orthogonal slices through the centre.

    Args:
        path: of the picture to write; its ending names the format.
        image: [D, H, W].
        voxel_mask: [D, H, W] bool, True where the input was hidden.
        reconstructions: [D, H, W] by name. Only their masked voxels are shown, the others come from `image`.
        title: of the figure.
        spacing: of the axes D, H, W in mm.

    Raises:
        ValueError: the volumes differ in shape.
    """
    for name, volume in {"voxel_mask": voxel_mask, **reconstructions}.items():
        if volume.shape != image.shape:
            raise ValueError(f"{name} has shape {volume.shape}, the image {image.shape}")
    columns = {"input": image, "masked input": np.ma.array(image, mask=voxel_mask)}
    for name, volume in reconstructions.items():
        error = np.mean((volume[voxel_mask] - image[voxel_mask]) ** 2)
        columns[f"{plain(name)}\nMSE {error:.3g} on masked voxels"] = np.where(voxel_mask, volume, image)

    sizes = [plane_size(axis, image.shape, spacing) for axis in range(3)]
    heights = [height / max(width for _, width in sizes) for height, _ in sizes]
    inches = 2.6
    figure = Figure(figsize=(inches * len(columns) + 0.4, inches * sum(heights) + 1.0), layout="constrained")
    figure.suptitle(plain(title), fontsize=13, parse_math=False)
    grid = figure.subplots(3, len(columns), squeeze=False, gridspec_kw={"height_ratios": heights})
    grey = colormaps["gray"].with_extremes(bad=MUTED_BLUE)
    for axis, row in enumerate(grid):
        index = image.shape[axis] // 2
        for cell, (name, volume) in zip(row, columns.items(), strict=True):
            slice_ = np.ma.take(volume, index, axis)
            cell.imshow(slice_, grey, aspect=plane_aspect(axis, spacing), interpolation="nearest", **grey_window(image))
            bare(cell)
            if axis == 0:
                cell.set_title(name, fontsize=11, parse_math=False)
        row[0].set_ylabel(f"{plane_name(axis)}, slice {index}", fontsize=10)
    figure.savefig(path, dpi=120)

"""What a masked autoencoder saw and what it made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_topomae.visualization.slices import Tile, grey_window, plane_name, slices_figure
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
    window, middle = grey_window(image), [side // 2 for side in image.shape]
    rows = [
        [Tile(volume, axis, index, spacing, window, "" if axis else name) for name, volume in columns.items()]
        for axis, index in enumerate(middle)
    ]
    names = [f"{plane_name(axis)}, slice {index}" for axis, index in enumerate(middle)]
    slices_figure(rows, names, plain(title)).savefig(path, dpi=120)

"""Orthogonal slices of volumes on a common scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

AXES = "DHW"


def plane_axes(axis: int) -> tuple[int, int]:
    """The two axes, in order, that a slice across `axis` shows as rows and columns."""
    first, second = (other for other in range(3) if other != axis)
    return first, second


def plane_name(axis: int) -> str:
    """For instance 'H × W' for slices across D."""
    return " × ".join(AXES[other] for other in plane_axes(axis))


def plane_aspect(axis: int, spacing: Sequence[float]) -> float:
    """Height of a voxel over its width in a slice across `axis`, as `Axes.imshow` wants it."""
    rows, columns = plane_axes(axis)
    return spacing[rows] / spacing[columns]


def plane_size(axis: int, shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, float]:
    """Height and width of a slice across `axis`, in the unit of `spacing`."""
    rows, columns = plane_axes(axis)
    return shape[rows] * spacing[rows], shape[columns] * spacing[columns]


def grey_window(image: np.ndarray) -> dict[str, float]:
    """`vmin` and `vmax` for `Axes.imshow`: all but the 0.1 % darkest and brightest voxels."""
    low, high = np.percentile(image, (0.1, 99.9))
    return {"vmin": float(low), "vmax": float(high)}


def bare(axes: Axes) -> None:
    """No ticks and no frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)

"""Measures of a predicted segmentation beside its reference: overlap, boundary, topology."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure

from nnunet_topomae.topology.metrics import betti_error

Label = int | tuple[int, ...]


class SegmentationMetrics(NamedTuple):
    """Of one class in one case.

    Attributes:
        dice: 2|A∩B| / (|A|+|B|); NaN where both are empty.
        hd95: 95th percentile of the surface distances in mm, the larger of both directions; NaN where both are
            empty, the diagonal of the volume where one is.
        betti_error: Σ over dimensions of the difference in Betti numbers (foreground 6-connected).
    """

    dice: float
    hd95: float
    betti_error: int


def segmentation_metrics(
    prediction: np.ndarray, reference: np.ndarray, labels: Iterable[Label], spacing: Sequence[float]
) -> dict[Label, SegmentationMetrics]:
    """The metrics of each label.

    Args:
        prediction, reference: [D, H, W] label maps.
        labels: integers, or tuples of integers for a region of several labels.
        spacing: mm of each axis.
    """
    labels = list(labels)
    betti = betti_error(prediction, reference, labels)
    metrics = {}
    for label in labels:
        a, b = np.isin(prediction, label), np.isin(reference, label)
        metrics[label] = SegmentationMetrics(dice(a, b), hausdorff_distance(a, b, spacing, 95), sum(betti[label]))
    return metrics


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks; NaN where both are empty."""
    size = a.sum() + b.sum()
    return float(2 * (a & b).sum() / size) if size else float("nan")


def hausdorff_distance(a: np.ndarray, b: np.ndarray, spacing: Sequence[float], percentile: float = 100) -> float:
    """Percentile of the distances in mm from each mask's surface to the other's, the larger of both directions.

    NaN where both masks are empty; the diagonal of the volume where one is.
    """
    if not a.any() and not b.any():
        return float("nan")
    if not a.any() or not b.any():
        return float(np.linalg.norm(np.multiply(a.shape, spacing)))
    surface_a, surface_b = _surface(a), _surface(b)
    from_a = distance_transform_edt(~surface_b, sampling=spacing)[surface_a]
    from_b = distance_transform_edt(~surface_a, sampling=spacing)[surface_b]
    return float(max(np.percentile(from_a, percentile), np.percentile(from_b, percentile)))


def _surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask with a face neighbour outside it."""
    return mask & ~binary_erosion(mask, generate_binary_structure(mask.ndim, 1))

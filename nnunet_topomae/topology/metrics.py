"""Topological measures of segmentations and diagrams.

Connectivity. In the V-construction voxels are vertices, and an edge, square or cube belongs to a mask when all its
voxels do: voxels that share a face are neighbours, so the foreground is 6-connected and the background 26-connected.
The dual convention (a voxel is a closed cube) makes the foreground 26-connected and the background 6-connected; it
follows from the first by Alexander duality.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from .persistence import PersistenceDiagram, persistence_diagrams

Connectivity = Literal[6, 26]
BettiNumbers = tuple[int, int, int]


def betti_numbers(mask: np.ndarray, connectivity: Connectivity = 6) -> BettiNumbers:
    """Connected components, independent tunnels and enclosed cavities of a mask.

    Args:
        mask: [D, H, W], boolean or 0 and 1. What lies outside the array is background.
        connectivity: 6 or 26, of the foreground; the background has the other one.
    """
    mask = np.asarray(mask)
    if mask.ndim != 3:
        raise ValueError(f"a mask has three axes, [D, H, W]; got shape {list(mask.shape)}")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ValueError("a mask holds 0 and 1 only; for a label map compare with a label first, as in `labels == 2`")
    mask = mask.astype(bool)
    if connectivity == 6:
        return _betti_numbers_6(mask)
    if connectivity != 26:
        raise ValueError(f"connectivity must be 6 or 26, got {connectivity}")
    # Alexander duality: a cavity of the surrounding background is a component of the mask, a component of the
    # background other than the outer one is a cavity of the mask, and tunnels go through each other.
    components, tunnels, cavities = _betti_numbers_6(~np.pad(mask, 1))
    return cavities, tunnels, components - 1


def _betti_numbers_6(mask: np.ndarray) -> BettiNumbers:
    # Foreground 0, background 1: what is born at 0 is the homology of the foreground, for nothing dies before 1.
    diagrams = persistence_diagrams(np.where(mask, np.float32(0), np.float32(1)))
    return tuple(int(np.count_nonzero(diagram.birth == 0)) for diagram in diagrams)


def betti_error(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Iterable[int | tuple[int, ...]],
    connectivity: Connectivity = 6,
) -> dict[int | tuple[int, ...], BettiNumbers]:
    """For each label |Betti numbers of the prediction − those of the reference|, in dimensions 0, 1, 2.

    Args:
        prediction, reference: [D, H, W] label maps of one shape.
        labels: integers, or tuples of integers for a region of several labels, as in nnU-Net's dataset.json.
        connectivity: see `betti_numbers`.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and reference {list(reference.shape)} differ in shape")
    errors = {}
    for label in labels:
        pairs = zip(*(betti_numbers(np.isin(m, label), connectivity) for m in (prediction, reference)), strict=True)
        errors[label] = tuple(abs(ours - theirs) for ours, theirs in pairs)
    return errors


def bottleneck_distance(a: PersistenceDiagram, b: PersistenceDiagram, tolerance: float = 0.0) -> float:
    """Bottleneck distance (L∞ ground metric) of two diagrams, essential classes matched with each other, by GUDHI.

    Args:
        tolerance: absolute error allowed, 0 for the exact distance.
    """
    import gudhi

    return float(gudhi.bottleneck_distance(a.points, b.points, tolerance))

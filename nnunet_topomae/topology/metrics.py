"""Topological measures of segmentations and diagrams.

Connectivity. In the V-construction voxels are vertices, and an edge, square or cube belongs to a mask when all its
voxels do: voxels that share a face are neighbours, so the foreground is 6-connected and the background 26-connected.
The dual convention (a voxel is a closed cube) makes the foreground 26-connected and the background 6-connected; it
follows from the first by Alexander duality.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from ._arguments import as_array, as_mask, is_integer, is_number, is_tensor
from ._cubical_gudhi import gudhi
from .persistence import PersistenceDiagram, check_comparable, check_diagram, persistence_diagrams

Connectivity = Literal[6, 26]
BettiNumbers = tuple[int, int, int]
Label = int | tuple[int, ...]


def betti_numbers(mask: Any, connectivity: Connectivity = 6) -> BettiNumbers:
    """Connected components, independent tunnels and enclosed cavities of a mask.

    Args:
        mask: [D, H, W], array or tensor, boolean or 0 and 1. What lies outside is background.
        connectivity: 6 or 26, of the foreground; the background has the other one.
    """
    mask = as_mask(mask)
    if connectivity not in (6, 26):
        raise ValueError(f"connectivity must be 6 or 26, got {connectivity}")
    if not mask.any():  # also an array without voxels
        return 0, 0, 0
    if connectivity == 6:
        return _betti_numbers_6(mask)
    # Alexander duality: a cavity of the surrounding background is a component of the mask, a component of the
    # background other than the outer one is a cavity of the mask, and tunnels go through each other.
    components, tunnels, cavities = _betti_numbers_6(~np.pad(mask, 1))
    return cavities, tunnels, components - 1


def _betti_numbers_6(mask: np.ndarray) -> BettiNumbers:
    # Foreground 0, background 1: what is born at 0 is the homology of the foreground, for nothing dies before 1.
    diagrams = persistence_diagrams(np.where(mask, np.float32(0), np.float32(1)))
    components, tunnels, cavities = (int(np.count_nonzero(diagram.birth == 0)) for diagram in diagrams)
    return components, tunnels, cavities


def betti_error(
    prediction: Any,
    reference: Any,
    labels: Iterable[int | Sequence[int]],
    connectivity: Connectivity = 6,
) -> dict[Label, BettiNumbers]:
    """For each label |Betti numbers of the prediction − those of the reference|, in dimensions 0, 1, 2.

    Args:
        prediction, reference: [D, H, W] label maps of one shape, arrays or tensors.
        labels: integers, or sequences of integers for a region of several labels, as in nnU-Net's dataset.json; the
            answer has regions as tuples.
        connectivity: see `betti_numbers`.
    """
    prediction, reference = _label_map(prediction, "prediction"), _label_map(reference, "reference")
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and reference {list(reference.shape)} differ in shape")
    errors = {}
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise TypeError(f"labels must be several, as in [1, 2]; got {labels!r}")
    for label in map(_checked_label, labels):
        pairs = zip(*(betti_numbers(np.isin(m, label), connectivity) for m in (prediction, reference)), strict=True)
        errors[label] = tuple(abs(ours - theirs) for ours, theirs in pairs)
    return errors


def _checked_label(label: Any) -> Label:
    """A label as an integer, a region as a tuple; TypeError for what could stand for no voxel's value."""
    label = label.tolist() if is_tensor(label) else label
    if is_integer(label):
        return int(label)
    if isinstance(label, (list, tuple, np.ndarray)) and len(label) > 0 and all(map(is_integer, label)):
        return tuple(map(int, label))
    raise TypeError(
        f"a label is an integer, as in dataset.json, or a list or tuple of integers for a region; got {label!r}"
    )


def _label_map(values: Any, name: str) -> np.ndarray:
    values = as_array(values, name)
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "f" and not (values == np.rint(values)).all()):
        raise ValueError(f"{name} must be a map of integer labels; it holds other values (type {values.dtype})")
    return values


def betti_curve(diagram: PersistenceDiagram, levels: Any) -> np.ndarray:
    """[n] int64: how many classes live at each of n levels, the Betti number of the sublevel or superlevel set there.

    A class lives from its birth on, and no more at its death.
    """
    check_diagram(diagram)
    levels = as_array(levels, "levels")
    if levels.ndim != 1 or levels.dtype.kind not in "biuf" or np.isnan(levels).any():
        raise ValueError(f"levels must be a row of numbers; got {levels}")
    sign = -1.0 if diagram.superlevel else 1.0
    born, dead = np.sort(sign * diagram.birth), np.sort(sign * diagram.death)
    return np.searchsorted(born, sign * levels, "right") - np.searchsorted(dead, sign * levels, "right")


def bottleneck_distance(a: PersistenceDiagram, b: PersistenceDiagram, tolerance: float = 0.0) -> float:
    """Bottleneck distance (L∞ ground metric) of two diagrams, essential classes matched with each other, by GUDHI.

    Args:
        tolerance: absolute error allowed, 0 for the exact distance.
    """
    if not is_number(tolerance) or tolerance < 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance!r}")
    check_comparable(a, b)
    check_diagram(a)
    check_diagram(b)
    sign = -1 if a.superlevel else 1
    return float(gudhi().bottleneck_distance(sign * a.points, sign * b.points, tolerance))

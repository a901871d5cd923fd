"""Measures of a predicted segmentation beside its reference: overlap, surfaces, volume, topology."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import find_objects

from nnunet_topomae.evaluation.centreline import cl_dice
from nnunet_topomae.evaluation.surface import SurfaceDistances, surface_voxels, surfels
from nnunet_topomae.topology.betti_matching import betti_matching_error
from nnunet_topomae.topology.metrics import betti_error

Label = int | tuple[int, ...]


def as_label(value: Any) -> Label:
    """An integer, or a tuple for a region, which dataset.json writes as a list."""
    return tuple(map(int, value)) if isinstance(value, (list, tuple)) else int(value)


class Measure(NamedTuple):
    """What a number means.

    Attributes:
        kind: "length", "volume" or "", which says its unit.
        definition: in words; A is the prediction, B the reference.
        one_empty: its value where one of both masks is empty. Where both are, every measure is NaN.
        more_is_better: direction.
    """

    kind: str
    definition: str
    one_empty: str
    more_is_better: bool = False


_NSD = "normalised surface Dice, the share of both surfaces within {} mm of the other, by area"
MEASURES = {
    "Dice": Measure("", "2 |A∩B| / (|A| + |B|)", "0", True),
    "HD95": Measure(
        "length", "larger of the two directed 95th percentiles of the distances between surface voxels", "diagonal"
    ),
    "HD95_pooled": Measure(
        "length", "95th percentile of the distances of both directions together (MedPy, UNETR++)", "diagonal"
    ),
    "ASSD": Measure("length", "mean of the distances of both directions together", "diagonal"),
    "NSD_1mm": Measure("", _NSD.format(1), "0", True),
    "NSD_2mm": Measure("", _NSD.format(2), "0", True),
    "volume_error": Measure("volume", "absolute difference of the volumes", "volume of the other"),
    "betti_error": Measure(
        "", "differences of the Betti numbers 0, 1, 2, summed; foreground 6-connected", "sum of the other's"
    ),
    "clDice": Measure("", "harmonic mean of the shares of each skeleton that lie in the other mask", "0", True),
    "betti_matching_error": Measure(
        "",
        "components, tunnels and cavities of A and of B without a partner in the other, summed; foreground 6-connected",
        "sum of the other's",
    ),
}
ON_DEMAND: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {  # left out where nobody asks for them
    "clDice": cl_dice,
    "betti_matching_error": lambda a, b: sum(betti_matching_error(np.atleast_3d(a), np.atleast_3d(b))),
}
NSD_TOLERANCES_MM = {"NSD_1mm": 1.0, "NSD_2mm": 2.0}


def chosen_measures(on_demand: Collection[str]) -> dict[str, Measure]:
    """`MEASURES` without those of `ON_DEMAND` that are not wanted. Raises ValueError for one that it does not have."""
    if unknown := sorted(set(on_demand).difference(ON_DEMAND)):
        raise ValueError(f"no measure on demand is called {', '.join(unknown)}: there are {', '.join(ON_DEMAND)}")
    return {name: measure for name, measure in MEASURES.items() if name not in ON_DEMAND or name in on_demand}


def segmentation_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Iterable[int | Sequence[int]],
    spacing: Sequence[float],
    ignore_label: int | None = None,
    on_demand: Collection[str] = (),
) -> dict[Label, dict[str, float]]:
    """By label the counts of voxels and overlaps that nnU-Net has (TP, FP, ..., Dice, IoU), and `MEASURES`.

    Where both masks of a label are empty, its measures are NaN. Those of surfaces are NaN, too, where voxels to ignore
    hide a surface altogether.

    Args:
        prediction, reference: [D, H, W] or [H, W], label maps of integers. An image of one slice is measured in its
            plane.
        labels: integers, or several of them for a region.
        spacing: mm of each axis.
        ignore_label: voxels that have it in the reference count for nothing.
        on_demand: those of `ON_DEMAND` that are wanted.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and reference {list(reference.shape)} differ in shape")
    measures = chosen_measures(on_demand)
    prediction, reference, spacing = _in_plane(prediction, reference, spacing)
    known = None if ignore_label is None else reference != ignore_label
    keys = [as_label(label) for label in labels]
    highest = max(map(np.max, keys), default=0)
    boxes = [find_objects(label_map, highest) for label_map in (prediction, reference)]
    num_known = reference.size if known is None else int(np.count_nonzero(known))
    diagonal = math.hypot(*np.multiply(reference.shape, spacing))
    metrics = {}
    for label in keys:
        box = _joint_box(boxes, label, reference.shape)
        known_here = None if known is None else known[box]
        a, b = (np.isin(label_map[box], label) for label_map in (prediction, reference))
        if known_here is not None:
            a, b = a & known_here, b & known_here
        overlap = _overlap(a, b, num_known)
        metrics[label] = overlap | _shape_measures(a, b, spacing, known_here, overlap, diagonal, measures)
    return metrics


def _in_plane(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Without an axis along which there is one voxel alone: no distance is measured there."""
    axes = [axis for axis, side in enumerate(reference.shape) if side == 1]
    if reference.ndim == 3 and axes:
        kept = [axis for axis in range(3) if axis != axes[0]]
        return prediction.squeeze(axes[0]), reference.squeeze(axes[0]), tuple(spacing[axis] for axis in kept)
    return prediction, reference, tuple(spacing)


def _joint_box(
    boxes: Sequence[Sequence[tuple[slice, ...] | None]], label: Label, shape: Sequence[int]
) -> tuple[slice, ...]:
    """The box around a label in both maps and one voxel more, for its neighbours; one voxel if it is nowhere."""
    values = (label,) if isinstance(label, int) else label
    if 0 in values:
        return tuple(slice(0, side) for side in shape)
    found = [box for of_map in boxes for value in values if value <= len(of_map) and (box := of_map[value - 1])]
    if not found:
        return tuple(slice(0, 1) for _ in shape)
    return tuple(
        slice(max(min(box[axis].start for box in found) - 1, 0), min(max(box[axis].stop for box in found) + 1, side))
        for axis, side in enumerate(shape)
    )


def _overlap(a: np.ndarray, b: np.ndarray, num_known: int) -> dict[str, float]:
    """The metrics of nnUNetv2_evaluate_folder, from masks of a box that holds all of both."""
    hits, num_a, num_b = (int(np.count_nonzero(mask)) for mask in (a & b, a, b))
    false_positives, false_negatives = num_a - hits, num_b - hits
    either = hits + false_positives + false_negatives
    return {
        "Dice": 2 * hits / (2 * hits + false_positives + false_negatives) if either else math.nan,
        "IoU": hits / either if either else math.nan,
        "FP": false_positives,
        "TP": hits,
        "FN": false_negatives,
        "TN": num_known - either,
        "n_pred": num_a,
        "n_ref": num_b,
    }


def _shape_measures(
    a: np.ndarray,
    b: np.ndarray,
    spacing: Sequence[float],
    known: np.ndarray | None,
    overlap: dict[str, float],
    diagonal: float,
    measures: Collection[str],
) -> dict[str, float]:
    num_a, num_b = overlap["n_pred"], overlap["n_ref"]
    if not num_a and not num_b:
        return dict.fromkeys([name for name in measures if name not in overlap], math.nan)
    return {
        **_surface_measures(a, b, spacing, known, diagonal if not num_a or not num_b else math.nan),
        "volume_error": abs(num_a - num_b) * math.prod(spacing),
        "betti_error": sum(betti_error(np.atleast_3d(a), np.atleast_3d(b), [1])[1]),
        **{name: of_masks(a, b) for name, of_masks in ON_DEMAND.items() if name in measures},
    }


def _surface_measures(
    a: np.ndarray, b: np.ndarray, spacing: Sequence[float], known: np.ndarray | None, otherwise: float
) -> dict[str, float]:
    """`otherwise` stands for a distance where one of the surfaces has no point; then nothing is within tolerance."""
    voxels = [surface_voxels(mask, spacing, known) for mask in (a, b)]
    blocks = [surfels(mask, spacing, known) for mask in (a, b)]
    distances = {name: otherwise for name in ("HD95", "HD95_pooled", "ASSD")}
    shares = {name: math.nan if math.isnan(otherwise) else 0.0 for name in NSD_TOLERANCES_MM}
    if all(len(surface.points) for surface in voxels):
        between = SurfaceDistances.between(*voxels)
        distances = {
            "HD95": between.hausdorff(95),
            "HD95_pooled": between.pooled_percentile(95),
            "ASSD": between.mean(),
        }
    if all(len(surface.points) for surface in blocks):
        between = SurfaceDistances.between(*blocks)
        shares = {name: between.share_within(tolerance) for name, tolerance in NSD_TOLERANCES_MM.items()}
    return distances | shares

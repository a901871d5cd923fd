"""A trivial segmentation that a network has to beat: each class by the best intensity threshold."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from nnunetv2.evaluation.evaluate_predictions import region_or_label_to_mask

from nnunet_topomae.evaluation.classes import Classes

Case = tuple[npt.NDArray[np.floating], npt.NDArray[np.integer]]
Dice = npt.NDArray[np.float64]

THRESHOLDS = np.linspace(-4, 8, 241)  # z-scores


def best_threshold_dice(training: Iterable[Case], test: Iterable[Case], classes: Classes) -> dict[str, float]:
    """Mean Dice of each class over `test` cases, by the threshold that is best on `training` cases.

    Cases are pairs of image [C, D, H, W] in any unit (channels are z-scored here) and label [D, H, W]. Generously, each
    class has its own channel, threshold and side (brighter or darker), and a voxel may belong to several classes.
    """
    chosen, reached = _mean_over_cases(training, classes), _mean_over_cases(test, classes)
    return {name: float(reached[name].flat[np.nanargmax(chosen[name])]) for name in classes.names.values()}


def _mean_over_cases(cases: Iterable[Case], classes: Classes) -> dict[str, Dice]:
    """By class, [C, 2, T]: mean Dice of the voxels at or above (0), or below (1), each threshold in each channel."""
    dice: dict[str, list[Dice]] = {name: [] for name in classes.names.values()}
    for image, label in cases:
        counted = label != classes.ignore_label
        for values, name in classes.names.items():
            mask = region_or_label_to_mask(label, values)[counted]
            dice[name].append(np.stack([_dice_by_threshold(channel[counted], mask) for channel in image]))
    return {name: np.nanmean(of_cases, axis=0) for name, of_cases in dice.items()}


def _dice_by_threshold(values: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> Dice:
    """[2, T], as nnU-Net defines it: NaN where neither the reference nor the prediction has a voxel."""
    values = (values - values.mean()) / values.std()
    predicted, hits = (len(part) - np.searchsorted(np.sort(part), THRESHOLDS) for part in (values, values[mask]))
    predicted, hits = np.stack([predicted, len(values) - predicted]), np.stack([hits, mask.sum() - hits])
    with np.errstate(invalid="ignore"):
        found: Dice = 2 * hits / (predicted + mask.sum())
    return found

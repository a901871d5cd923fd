"""Two trivial segmentations that a network has to beat: all background, and the best intensity threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import region_or_label_to_mask

# z-scores; nothing reaches infinity, so that the last one predicts background alone.
THRESHOLDS = np.append(np.linspace(-4, 8, 241), np.inf)


class Baselines(NamedTuple):
    """Mean Dice over test cases by class."""

    threshold: dict[str, float]
    background: dict[str, float]


def trivial_baselines(
    training: Iterable[tuple[np.ndarray, np.ndarray]],
    test: Iterable[tuple[np.ndarray, np.ndarray]],
    classes: Mapping[str, int | tuple[int, ...]],
    ignore_label: int | None = None,
) -> Baselines:
    """Dice of thresholds chosen on `training` cases, and of predicting background, on `test` cases.

    The threshold baseline is generous: each class has its own channel, threshold and side (brighter or darker), those
    with the best mean Dice on the training cases, and a voxel may belong to several classes.

    Args:
        training, test: pairs of image [C, D, H, W] in any unit (channels are z-scored here) and label [D, H, W].
        classes: a label, or the labels of a region, by name.
        ignore_label: voxels with it count nowhere.
    """
    training_dice = _mean_over_cases(training, classes, ignore_label)
    test_dice = _mean_over_cases(test, classes, ignore_label)
    return Baselines(
        {name: float(test_dice[name].flat[np.nanargmax(training_dice[name])]) for name in classes},
        {name: float(test_dice[name][0, 0, -1]) for name in classes},
    )


def _mean_over_cases(
    cases: Iterable[tuple[np.ndarray, np.ndarray]], classes: Mapping[str, int | tuple[int, ...]], ignore: int | None
) -> dict[str, np.ndarray]:
    """By class, [C, 2, T]: mean Dice of the voxels at or above (0), or below (1), each threshold in each channel."""
    dice: dict[str, list[np.ndarray]] = {name: [] for name in classes}
    for image, label in cases:
        counted = label != ignore
        for name, values in classes.items():
            mask = region_or_label_to_mask(label, values)[counted]
            dice[name].append(np.stack([_dice_by_threshold(channel[counted], mask) for channel in image]))
    return {name: np.nanmean(values, axis=0) for name, values in dice.items()}


def _dice_by_threshold(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[2, T], as nnU-Net defines it: NaN where neither the reference nor the prediction has a voxel."""
    values = (values - values.mean()) / values.std()
    predicted, hits = _count_at_least(values), _count_at_least(values[mask])
    predicted = np.stack([predicted, values.size - predicted])
    hits = np.stack([hits, mask.sum() - hits])
    with np.errstate(invalid="ignore"):
        return 2 * hits / (predicted + mask.sum())


def _count_at_least(values: np.ndarray) -> np.ndarray:
    return values.size - np.searchsorted(np.sort(values), THRESHOLDS, side="left")

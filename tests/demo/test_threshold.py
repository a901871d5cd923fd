from __future__ import annotations

import numpy as np
import pytest

from nnunet_topomae.demo.threshold import best_threshold_dice
from nnunet_topomae.evaluation.classes import Classes

BRIGHT = Classes({1: "bright"})


def case(seed: int, brightness: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """A bright class 1, a dark class 2 in the second channel, and noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, (8, 8, 8))
    image = rng.normal(size=(2, 8, 8, 8))
    image[0] += brightness * (label == 1)
    image[1] -= brightness * (label == 2)
    return 50 + 7 * image, label


def test_each_class_gets_its_channel_side_and_threshold() -> None:
    dice = best_threshold_dice([case(0), case(1)], [case(2)], Classes({1: "bright", 2: "dark"}))
    # Two unit Gaussians three apart, one of them half as frequent: the best Dice is near 0.92.
    assert dice["bright"] == pytest.approx(0.92, abs=0.04)
    assert dice["dark"] == pytest.approx(0.92, abs=0.04)


def test_perfect_contrast_and_none() -> None:
    image, label = case(0, brightness=50.0)  # separable: one threshold finds the class exactly
    assert best_threshold_dice([(image, label)], [(image, label)], BRIGHT)["bright"] == 1.0
    without_signal = case(1, brightness=0.0)  # then the best is to call everything the class: 2p/(1+p)
    p = (without_signal[1] == 1).mean()
    found = best_threshold_dice([without_signal], [without_signal], BRIGHT)["bright"]
    assert 2 * p / (1 + p) <= found < 2 * p / (1 + p) + 0.02


def test_the_threshold_is_chosen_on_training_cases() -> None:
    """Inverted test cases: the side learnt from training is wrong there."""
    image, label = case(1)
    learnt = best_threshold_dice([case(0)], [(-image, label)], BRIGHT)["bright"]
    assert learnt < 0.5


def test_regions_and_ignored_voxels() -> None:
    image, label = case(0, brightness=50.0)
    label[0] = 9
    image[0, 0] += 50 * (np.arange(64).reshape(8, 8) % 2)  # would spoil the threshold if it counted
    found = best_threshold_dice([(image, label)], [(image, label)], Classes({(1,): "either"}, ignore_label=9))
    assert found == {"either": 1.0}

"""Betti matching error of masks, beside shapes counted by hand and GUDHI's homology of a space that holds both."""

import time

import gudhi
import numpy as np
import pytest
from scipy import ndimage

from nnunet_topomae.topology import betti_matching_error, betti_numbers

AXES = np.meshgrid(*[np.arange(28) - 13.5] * 3, indexing="ij")


def ball(z: float = 0, y: float = 0, x: float = 0, radius: float = 4) -> np.ndarray:
    return sum((axis - c) ** 2 for axis, c in zip(AXES, (z, y, x), strict=True)) <= radius**2


def ring(y: float = 0, x: float = 0, radius: float = 6) -> np.ndarray:
    return (np.hypot(AXES[1] - y, AXES[2] - x) - radius) ** 2 + AXES[0] ** 2 <= 2.5**2


BAR = (np.abs(AXES[0]) < 2) & (np.abs(AXES[1]) < 2) & (np.abs(AXES[2]) < 6)
TWO_RINGS, HALF = ring(0, -7, 4) | ring(0, 7, 4), AXES[1] > 0
HOLLOW = ball(radius=9) & ~ball(radius=5)
SHAPES = {
    "the same": (ring(), ring(), (0, 0, 0)),
    "a shifted ring": (ring(), ring(1, 2), (0, 0, 0)),
    "a ball elsewhere, of which there is one in each": (ball(y=-7), ball(y=7), (2, 0, 0)),
    "rings at two places": (ring(0, -7, 4), ring(0, 7, 4), (2, 2, 0)),
    "one ring of two": (ring(0, -7, 4), TWO_RINGS, (1, 1, 0)),
    "a broken ring": (ring() & ~(HALF & (np.abs(AXES[2]) < 2)), ring(), (0, 1, 0)),
    "a ring broken at two places": (ring() & (np.abs(AXES[2]) > 2), ring(), (1, 1, 0)),
    "a bridge across a ring": (ring() | BAR, ring(), (0, 1, 0)),
    "a ring filled": (ring() | ball(radius=5), ring(), (0, 1, 0)),
    "a smaller cavity": (ball(radius=9) & ~ball(radius=3), HOLLOW, (0, 0, 0)),
    "a cavity elsewhere": (ball(radius=12) & ~ball(y=-6, radius=3), ball(radius=12) & ~ball(y=6, radius=3), (0, 0, 2)),
    "a cavity cut in two": (HOLLOW | (ball(radius=9) & (np.abs(AXES[0]) < 1)), HOLLOW, (0, 0, 1)),
    "a cavity that is open": (HOLLOW & ~(ball(radius=9) & HALF & (np.abs(AXES[0]) < 2)), HOLLOW, (0, 0, 1)),
    "an empty mask": (np.zeros_like(HOLLOW), TWO_RINGS | HOLLOW, betti_numbers(TWO_RINGS | HOLLOW)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_counted_by_hand_however_they_are_turned(name: str) -> None:
    a, b, expected = SHAPES[name]
    assert betti_matching_error(a, b) == betti_matching_error(b, a) == expected
    for axes in ((2, 0, 1), (1, 2, 0)):
        assert betti_matching_error(a.transpose(axes)[::-1], b.transpose(axes)[::-1]) == expected


def matched_by_gudhi(a: np.ndarray, b: np.ndarray) -> list[int]:
    """dim(im_A ∩ im_B) in dimensions 0, 1, 2, of ranks in a space of four dimensions: the union between A and B."""
    born = [np.where(mask, value, np.inf) for mask, value in ((a, 0.0), (a | b, 1.0), (b, 0.0))]

    def ranks(*layers: np.ndarray) -> np.ndarray:
        space = gudhi.CubicalComplex(vertices=np.stack(layers))
        space.compute_persistence(2)
        return np.array([space.persistent_betti_numbers(0, 1)[k] for k in range(3)])

    return (ranks(*born[:2]) + ranks(*born[1:]) - ranks(*born)).tolist()


@pytest.mark.parametrize("seed", range(80))
def test_noise_against_gudhi_in_four_dimensions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 8, 3)
    a = rng.random(shape) < rng.uniform(0.2, 0.9)
    b = a ^ (rng.random(shape) < rng.uniform(0, 0.8))
    expected = np.add(betti_numbers(a), betti_numbers(b)) - 2 * np.array(matched_by_gudhi(a, b))
    assert betti_matching_error(a, b) == tuple(expected)


def test_a_volume_of_vessels_takes_well_under_a_second() -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(2, 64, 64, 64)), (0, 3, 3, 3))
    vessels = np.hypot(*noise) < 0.4 * noise.std()  # around the lines where both are 0
    other = vessels.copy()
    other[:, ::20] = False
    betti_matching_error(vessels[:8], other[:8])  # compiles
    start = time.process_time()
    errors = betti_matching_error(vessels, other)
    assert time.process_time() - start < 0.5  # 0.05 on a quiet core
    assert sum(errors) >= sum(np.abs(np.subtract(betti_numbers(vessels), betti_numbers(other)))) > 0

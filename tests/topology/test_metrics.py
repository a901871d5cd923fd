import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import euler_number

from nnunet_topomae.topology import (
    betti_curve,
    betti_error,
    betti_numbers,
    bottleneck_distance,
    persistence_diagrams,
)

FACES = ndimage.generate_binary_structure(3, 1)
CORNERS = ndimage.generate_binary_structure(3, 3)


def grid(side: int = 24) -> list[np.ndarray]:
    return np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 3, indexing="ij")


def ball(radius: float = 8) -> np.ndarray:
    z, y, x = grid()
    return x**2 + y**2 + z**2 <= radius**2


def torus() -> np.ndarray:
    z, y, x = grid()
    return (np.hypot(x, y) - 7) ** 2 + z**2 <= 3**2


SHAPES = {
    "empty": (np.zeros((4, 5, 6), bool), (0, 0, 0)),
    "full": (np.ones((4, 5, 6), bool), (1, 0, 0)),
    "ball": (ball(), (1, 0, 0)),
    "solid torus": (torus(), (1, 1, 0)),
    "hollow ball": (ball(9) & ~ball(5), (1, 0, 1)),
    "surface of a torus": (torus() & ~ndimage.binary_erosion(torus(), CORNERS), (1, 2, 1)),
    "ball in a hollow ball": (ball(10) & ~ball(7) | ball(3), (2, 0, 1)),
    "cavity open to the border of the array": (~np.pad(np.ones((3, 3, 3), bool), [(0, 2), (2, 2), (2, 2)]), (1, 0, 0)),
}


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("name", SHAPES)
def test_betti_numbers_of_shapes(name: str, connectivity: int) -> None:
    mask, expected = SHAPES[name]
    assert betti_numbers(mask, connectivity) == expected


def test_voxels_that_share_a_corner_are_one_component_only_under_26_connectivity() -> None:
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert betti_numbers(mask, 6) == (2, 0, 0)
    assert betti_numbers(mask, 26) == (1, 0, 0)


@pytest.mark.parametrize("connectivity, foreground, background", [(6, FACES, CORNERS), (26, CORNERS, FACES)])
@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_against_component_labelling_and_the_euler_characteristic(
    connectivity: int, foreground: np.ndarray, background: np.ndarray, density: float
) -> None:
    mask = np.random.default_rng(0).random((12, 15, 9)) < density
    components, tunnels, cavities = betti_numbers(mask, connectivity)
    assert components == ndimage.label(mask, foreground)[1]
    assert cavities == ndimage.label(~np.pad(mask, 1), background)[1] - 1
    euler = euler_number(mask, connectivity={6: 1, 26: 3}[connectivity])
    assert components - tunnels + cavities == euler


def test_betti_error_per_label_and_region() -> None:
    reference = np.where(torus(), 1, 0)
    reference[~torus() & ball(11)] = 2
    cut = reference.copy()
    cut[:, :, :12][cut[:, :, :12] == 1] = 0  # half a torus: a handle, no tunnel
    assert betti_error(reference, reference, [1, 2, (1, 2)]) == {1: (0, 0, 0), 2: (0, 0, 0), (1, 2): (0, 0, 0)}
    assert betti_error(cut, reference, [1])[1] == (0, 1, 0)
    assert betti_error(np.zeros_like(reference), reference, [(1, 2)])[(1, 2)] == betti_numbers(reference > 0)


def test_bottleneck_distance_of_a_shifted_volume_is_the_shift() -> None:
    volume = np.random.default_rng(1).normal(size=(8, 8, 8))
    for a, b in zip(persistence_diagrams(volume), persistence_diagrams(volume + 0.01), strict=True):
        assert bottleneck_distance(a, a) == 0
        assert bottleneck_distance(a, b) == pytest.approx(0.01)


def test_bottleneck_distance_obeys_the_stability_theorem() -> None:
    rng = np.random.default_rng(2)
    volume = rng.normal(size=(9, 7, 8))
    other = volume + rng.uniform(-0.3, 0.3, size=volume.shape)
    for a, b in zip(persistence_diagrams(volume), persistence_diagrams(other), strict=True):
        assert 0 < bottleneck_distance(a, b) <= np.abs(volume - other).max()


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("shape", [(0, 4, 5), (4, 0, 0), (0, 0, 0)])
def test_a_mask_without_voxels_has_nothing(shape: tuple[int, ...], connectivity: int) -> None:
    assert betti_numbers(np.zeros(shape, bool), connectivity) == (0, 0, 0)
    assert betti_error(np.zeros(shape, int), np.zeros(shape, int), [1], connectivity) == {1: (0, 0, 0)}


def test_regions_may_be_lists_as_in_dataset_json() -> None:
    reference = np.where(torus(), 1, np.where(ball(11), 2, 0))
    nothing = np.zeros_like(reference)
    expected = betti_error(nothing, reference, [(1, 2), 1])
    assert betti_error(nothing, reference, [[1, 2], np.int64(1)]) == expected
    assert betti_error(nothing, reference, [np.array([1, 2]), 1]) == expected


@pytest.mark.parametrize("superlevel", [False, True])
def test_betti_curve_counts_as_betti_numbers_do(superlevel: bool) -> None:
    volume = np.random.default_rng(0).integers(0, 6, (7, 8, 6)).astype(np.uint8)
    levels = np.arange(7, dtype=np.uint8)
    curves = [betti_curve(diagram, levels) for diagram in persistence_diagrams(volume, superlevel=superlevel)]
    for i, level in enumerate(levels):
        mask = volume >= level if superlevel else volume <= level
        assert tuple(curve[i] for curve in curves) == betti_numbers(mask)


def test_bottleneck_distance_of_superlevel_sets() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 6, 6, 6))
    for k in range(3):
        falling = [persistence_diagrams(-v, superlevel=True)[k] for v in (a, b)]
        rising = [persistence_diagrams(v)[k] for v in (a, b)]
        assert bottleneck_distance(*falling) == pytest.approx(bottleneck_distance(*rising))
    with pytest.raises(ValueError, match="superlevel"):
        bottleneck_distance(falling[0], rising[0])
    with pytest.raises(ValueError, match="tolerance"):
        bottleneck_distance(*rising, tolerance=None)

"""The auction against exact dense assignment, POT and closed forms: its bounds hold, and are as close as asked."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import gudhi
import gudhi.wasserstein
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from nnunet_topomae.topology import _auction, _kdtree, persistence_diagrams
from nnunet_topomae.topology import wasserstein as implementation
from nnunet_topomae.topology.persistence import PersistenceDiagram
from nnunet_topomae.topology.wasserstein import WassersteinResult, squared_wasserstein

KINDS = ("uniform", "near the diagonal", "clustered", "lattice", "duplicates", "heavy tail")


def exact(a: np.ndarray, b: np.ndarray) -> float:
    """W2² by dense assignment of what pairs save against the diagonal, where those that save nothing part again."""
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0)) or 1.0
    a, b = a / scale, b / scale
    alone_a, alone_b = np.square(a[:, 1] - a[:, 0]) / 2, np.square(b[:, 1] - b[:, 0]) / 2
    cost = np.square(a[:, None] - b[None]).sum(-1)
    saving = alone_a[:, None] + alone_b[None] - cost
    i, j = linear_sum_assignment(np.maximum(saving, 0), maximize=True)
    i, j = i[saving[i, j] > 0], j[saving[i, j] > 0]
    return (cost[i, j].sum() + np.delete(alone_a, i).sum() + np.delete(alone_b, j).sum()) * scale**2


def diagram(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    birth = rng.normal(size=size)
    persistence = {
        "uniform": lambda: rng.uniform(size=size),
        "near the diagonal": lambda: 1e-3 * rng.exponential(size=size),
        "clustered": lambda: 0.3 + 1e-3 * rng.uniform(size=size),
        "lattice": lambda: rng.integers(0, 4, size),
        "duplicates": lambda: rng.choice([0.0, 0.5, 0.5000001], size),
        "heavy tail": lambda: 0.01 * rng.pareto(1, size),
    }[kind]()
    if kind == "clustered":
        birth = rng.integers(0, 2, size) + 1e-3 * birth
    if kind in ("lattice", "duplicates"):
        birth = rng.integers(0, 4, size).astype(float)
    return np.stack([birth, birth + persistence], axis=1)


def check(a: np.ndarray, b: np.ndarray, result: WassersteinResult, rel_tol: float, expected: float) -> None:
    """The matching uses each point once and costs what it says; the bounds hold, and within the tolerance."""
    i, j = result.matching.T
    assert result.matching.dtype == np.int64
    assert sorted(i[i >= 0]) == list(range(len(a)))
    assert sorted(j[j >= 0]) == list(range(len(b)))
    assert not ((i < 0) & (j < 0)).any()
    cost = sum(
        np.square(a[p] - b[q]).sum() if p >= 0 and q >= 0 else np.ptp(a[p] if p >= 0 else b[q]) ** 2 / 2
        for p, q in result.matching
    )
    assert result.cost == pytest.approx(cost, rel=1e-9)
    assert result.lower_bound <= expected * (1 + 1e-12)
    assert expected <= result.cost * (1 + 1e-12)
    assert result.cost - result.lower_bound <= rel_tol * result.cost


@pytest.mark.parametrize("kind_b", KINDS)
@pytest.mark.parametrize("kind_a", KINDS)
@pytest.mark.parametrize("rel_tol", [0.1, 0.01, 1e-6])
def test_dense_assignment(kind_a: str, kind_b: str, rel_tol: float) -> None:
    rng = np.random.default_rng(KINDS.index(kind_a) * len(KINDS) + KINDS.index(kind_b))
    for size_a, size_b in ((1, 1), (2, 7), (40, 9), (90, 110), (300, 250)):
        a, b = diagram(kind_a, size_a, rng), diagram(kind_b, size_b, rng)
        check(a, b, squared_wasserstein(a, b, rel_tol), rel_tol, exact(a, b))


coordinates = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3), st.floats(-1e-6, 1e-6))
diagrams = st.lists(st.tuples(coordinates, coordinates).map(sorted), max_size=12).map(lambda p: np.reshape(p, (-1, 2)))


def check_bounds(a: np.ndarray, b: np.ndarray) -> None:
    result, expected = squared_wasserstein(a, b), exact(a, b)
    slack = 1e-13 * (np.square(a).sum() + np.square(b).sum())  # rounding of the reference
    assert result.lower_bound <= expected + slack
    assert expected - slack <= result.cost
    assert result.cost - result.lower_bound <= 0.01 * result.cost + slack


@settings(max_examples=300, deadline=None)
@given(diagrams, diagrams)
def test_bounds_hold_for_any_diagrams(a: np.ndarray, b: np.ndarray) -> None:
    check_bounds(a, b)


@pytest.fixture
def as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small diagrams take the way of large ones: a sample's cost guesses that of all, and searches use lifts."""
    monkeypatch.setattr(implementation, "LARGE", 24)
    monkeypatch.setattr(implementation, "SAMPLE_STEP", 3)


@pytest.mark.parametrize("kind_b", KINDS)
@pytest.mark.parametrize("kind_a", KINDS)
def test_dense_assignment_as_if_large(as_if_large: None, kind_a: str, kind_b: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind_a) * len(KINDS) + KINDS.index(kind_b))
    for size_a, size_b in ((2, 30), (90, 110), (300, 250)):
        a, b = diagram(kind_a, size_a, rng), diagram(kind_b, size_b, rng)
        for rel_tol in (0.1, 0.01, 1e-6):
            check(a, b, squared_wasserstein(a, b, rel_tol), rel_tol, exact(a, b))


wide = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e-9, 1e-9), st.floats(-1e9, 1e9))
many = st.lists(st.tuples(wide, wide).map(sorted), min_size=13, max_size=40).map(lambda p: np.reshape(p, (-1, 2)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(many, many)
def test_bounds_hold_as_if_large(as_if_large: None, a: np.ndarray, b: np.ndarray) -> None:
    check_bounds(a, b)


@settings(max_examples=100, deadline=None)
@given(many, st.lists(st.tuples(wide, wide).map(sorted), min_size=1, max_size=20), st.integers(0, 2**31))
def test_searches_with_and_without_lifts_find_the_same(points: np.ndarray, queries: list, seed: int) -> None:
    scale = np.abs(points).max() or 1.0
    u, v = points.sum(axis=1) / scale, (points[:, 1] - points[:, 0]) / scale
    rng = np.random.default_rng(seed)
    tree = _kdtree.build(u, v, rng.choice([0.0, 0.1], (len(v), 2)))
    _kdtree.set_weights(tree, np.square(v) - rng.choice([0.0, 1e-16, 1e-3, 1.0], len(v)) * rng.random(len(v)))
    for birth, death in np.array(queries) / max(np.abs(queries).max(), 1e-300):
        asking = _kdtree.build(np.array([birth + death]), np.array([death - birth]), np.zeros((1, 2)))
        question = (tree, 0, asking, 0, -np.square(death - birth))
        plain = _kdtree.best_two(*question, None, _kdtree.waiting_room())
        lifted = _kdtree.best_two(*question, True, _kdtree.waiting_room())
        assert lifted[:2] == plain[:2]


def test_potentials_are_feasible_and_prove_the_bound() -> None:
    rng = np.random.default_rng(8)
    a, b = diagram("uniform", 120, rng), diagram("heavy tail", 100, rng)
    for x, y in ((a, b), (b, a)):
        result = squared_wasserstein(x, y)
        f, h = result.potentials
        assert (f[:, None] + h[None] <= np.square(x[:, None] - y[None]).sum(-1) + 1e-12).all()
        assert (f <= np.square(np.ptp(x, axis=1)) / 2 + 1e-12).all()
        assert (h <= np.square(np.ptp(y, axis=1)) / 2 + 1e-12).all()
        assert result.lower_bound <= f.sum() + h.sum() + 1e-12


@pytest.mark.parametrize("scale", [1e-150, 1e-12, 1e12, 1e150])
def test_scale(scale: float) -> None:
    rng = np.random.default_rng(0)
    a, b = diagram("uniform", 80, rng), diagram("heavy tail", 90, rng)
    check(scale * a, scale * b, squared_wasserstein(scale * a, scale * b), 0.01, exact(scale * a, scale * b))


def test_power_of_two_scales_exactly() -> None:
    rng = np.random.default_rng(1)
    a, b = diagram("uniform", 80, rng), diagram("uniform", 90, rng)
    once, scaled = squared_wasserstein(a, b), squared_wasserstein(1024 * a, 1024 * b)
    assert scaled.cost == 1024**2 * once.cost
    np.testing.assert_array_equal(scaled.matching, once.matching)


@pytest.mark.parametrize("kind", KINDS)
def test_distance_to_itself_is_zero(kind: str) -> None:
    rng = np.random.default_rng(2)
    a = diagram(kind, 200, rng)
    b = rng.permutation(a)
    result = squared_wasserstein(a, b)
    assert result.cost == 0 and result.lower_bound == 0
    i, j = result.matching[(result.matching >= 0).all(axis=1)].T
    np.testing.assert_array_equal(a[i], b[j])


@pytest.mark.parametrize(("shift", "rel_tol"), [(1e-4, 0.01), (1e-6, 0.01), (1e-9, 1)])
def test_nearly_the_same(shift: float, rel_tol: float) -> None:
    """Bounds hold and nothing hangs, also where float64 cannot resolve 1 % of so small a part of what is at stake."""
    rng = np.random.default_rng(3)
    a = diagram("clustered", 200, rng) + np.arange(200)[:, None]
    b = a + shift * rng.normal(size=a.shape)
    check(a, b, squared_wasserstein(a, b), rel_tol, np.square(a - b).sum())


@pytest.mark.parametrize("size", [100, 1000, 10_000])
def test_rounding_does_not_cost_the_certificate_of_many_points(size: int) -> None:
    rng = np.random.default_rng(9)
    a = np.sort(rng.normal(size=(size, 2)), axis=1)
    b = np.sort(a + 1e-6 * rng.normal(size=a.shape), axis=1)
    result = squared_wasserstein(a, b)
    assert result.cost <= np.square(a - b).sum() * (1 + 1e-9)
    assert result.cost - result.lower_bound <= 0.01 * result.cost


def test_sums_are_compensated() -> None:
    rng = np.random.default_rng(10)
    a = diagram("heavy tail", 5000, rng)
    tree, empty = implementation._tree(a), implementation._tree(np.zeros((0, 2)))
    total, rest, rounding = _auction.conjugate(tree, empty, np.full(tree.row.size, -1), None)
    exact_sum = sum(map(Fraction, _kdtree.weights_of(tree).tolist()))
    assert abs(Fraction(total) + Fraction(rest) - exact_sum) <= 1e-31 * 5000**2 * exact_sum
    assert rounding <= 20 * 2.0**-52 * exact_sum


def test_diagrams_with_classes_that_never_die() -> None:
    x, y = np.random.default_rng(11).normal(size=(2, 7, 7, 7))
    a, b = persistence_diagrams(x)[0], persistence_diagrams(y)[0]
    result, finite = squared_wasserstein(a, b), squared_wasserstein(a.finite().points, b.finite().points)
    expected = gudhi.wasserstein.wasserstein_distance(
        a.points, b.points, order=2, internal_p=2, keep_essential_parts=True
    )
    assert result.cost == pytest.approx(finite.cost + (x.min() - y.min()) ** 2)
    assert result.lower_bound <= expected**2 * (1 + 1e-9) and expected**2 <= result.cost * (1 + 1e-9)
    assert [len(a) - 1, len(b) - 1] in result.matching.tolist()
    assert sorted(result.matching[result.matching[:, 0] >= 0, 0]) == list(range(len(a)))
    assert squared_wasserstein(a.finite(), b.finite()).cost == finite.cost


def essential(births: list[float], **settings: bool) -> PersistenceDiagram:
    voxels = np.arange(len(births))
    death = np.full(len(births), -np.inf if settings.get("superlevel") else np.inf)
    return PersistenceDiagram(np.array(births, float), death, voxels, np.full(len(births), -1), **settings)


def test_several_classes_that_never_die() -> None:
    assert squared_wasserstein(essential([3, 0, 1]), essential([0.5, 3, 2])).cost == 0.25 + 1
    assert squared_wasserstein(essential([]), essential([])).cost == 0
    apart = squared_wasserstein(essential([1, 2]), essential([5]))
    assert apart.cost == apart.lower_bound == np.inf
    assert sorted(apart.matching.tolist()) == [[0, 0], [1, -1]]


def test_superlevel_sets_are_as_far_apart_as_sublevel_sets_of_the_negatives() -> None:
    x, y = np.random.default_rng(12).normal(size=(2, 6, 6, 6))
    for k in range(3):
        falling = squared_wasserstein(*(persistence_diagrams(-v, superlevel=True)[k] for v in (x, y)))
        rising = squared_wasserstein(*(persistence_diagrams(v)[k] for v in (x, y)))
        assert falling == rising and hash(falling) == hash(rising)
    with pytest.raises(ValueError, match="superlevel"):
        squared_wasserstein(persistence_diagrams(x)[0], persistence_diagrams(x, superlevel=True)[0])
    with pytest.raises(ValueError, match="superlevel"):
        squared_wasserstein(persistence_diagrams(x, superlevel=True)[0], np.zeros((0, 2)))


def test_results_are_equal_where_cost_bound_and_matching_are() -> None:
    a = np.array([[0.0, 1.0], [0.0, 2.0]])
    assert squared_wasserstein(a, a + 0.1) == squared_wasserstein(a, a + 0.1)
    assert squared_wasserstein(a, a + 0.1) != squared_wasserstein(a, a)
    assert squared_wasserstein(a, a) != "a result"


def test_empty_diagrams() -> None:
    empty, a = np.zeros((0, 2)), np.array([[0.0, 2.0], [1.0, 5.0]])
    nothing = squared_wasserstein(empty, empty)
    assert (nothing.cost, nothing.lower_bound, nothing.matching.shape) == (0, 0, (0, 2))
    for result, column in ((squared_wasserstein(a, empty), 0), (squared_wasserstein([], a), 1)):
        assert result.cost == pytest.approx(10)
        assert result.lower_bound == pytest.approx(10)
        assert result.matching[:, column].tolist() == [0, 1]
        assert result.matching[:, 1 - column].tolist() == [-1, -1]


def test_points_on_the_diagonal_cost_nothing() -> None:
    a = np.repeat(np.linspace(0, 1, 30)[:, None], 2, axis=1)
    assert squared_wasserstein(a, a[:7] + 0.01).cost == 0


def test_order_of_the_arguments() -> None:
    rng = np.random.default_rng(4)
    a, b = diagram("heavy tail", 70, rng), diagram("uniform", 100, rng)
    there, back = squared_wasserstein(a, b), squared_wasserstein(b, a)
    assert back.cost == pytest.approx(there.cost, rel=1e-12)
    assert sorted(map(tuple, back.matching[:, ::-1])) == sorted(map(tuple, there.matching))


@pytest.mark.parametrize("max_bids", [0, 1, 100])
def test_bound_on_bids(max_bids: int) -> None:
    rng = np.random.default_rng(5)
    a, b = diagram("lattice", 300, rng), diagram("uniform", 300, rng)
    result = squared_wasserstein(a, b, rel_tol=1e-12, max_bids=max_bids)
    assert result.cost - result.lower_bound > 1e-12 * result.cost
    check(a, b, result, 1.0, exact(a, b))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([[0.0, 1.0], [np.nan, 1.0]], r"diagram b, row 1.*not finite"),
        ([[0.0, np.inf]], r"diagram b, row 0.*not finite"),
        ([[0.0, 1.0], [0.0, 1.0], [2.0, 1.0]], r"diagram b, row 2.*dies before it is born"),
        ([0.0, 1.0], r"diagram b .*shape.*\[2\]"),
        (np.zeros((2, 0)), r"diagram b .*shape.*\[2, 0\]"),
        ([["0", "1"]], r"diagram b must hold real numbers"),
        (np.zeros((2, 2), complex), r"diagram b must hold real numbers, got complex128"),
    ],
)
def test_refuses_wrong_diagrams(wrong: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        squared_wasserstein(np.array([[0.0, 1.0]]), np.array(wrong))


def test_refuses_wrong_settings() -> None:
    a = np.array([[0.0, 1.0]])
    for rel_tol in (0, -1, np.nan, np.inf, None, "0.01", True):
        with pytest.raises(ValueError, match="rel_tol"):
            squared_wasserstein(a, a, rel_tol)
    for max_bids in (-1, 1.5, "1", np.nan):
        with pytest.raises(ValueError, match="max_bids"):
            squared_wasserstein(a, a, max_bids=max_bids)


@pytest.fixture(scope="module")
def ct_diagrams(shared_data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Dimensions 0, 1, 2 of the central 32³ of a CT against its blurred and noisy copy, without the essential class."""
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(shared_data / "ct" / "example_ct.nii.gz"))).T.astype(float)
    corner = [(side - 32) // 2 for side in image.shape]
    x = (np.clip(image[tuple(slice(c, c + 32) for c in corner)], -991, 362) - 50) / 141
    y = gaussian_filter(x, 1) + 0.1 * np.random.default_rng(0).normal(size=x.shape)

    def diagrams(volume: np.ndarray) -> list[np.ndarray]:
        cubical = gudhi.CubicalComplex(vertices=volume)
        cubical.compute_persistence()
        intervals = [cubical.persistence_intervals_in_dimension(k) for k in range(3)]
        return [points[np.isfinite(points).all(axis=1)] for points in intervals]

    return list(zip(diagrams(x), diagrams(y), strict=True))


@pytest.mark.parametrize(("dimension", "expected"), [(0, 11.654909), (1, 36.502215), (2, 7.267430)])
def test_ct(ct_diagrams: list[tuple[np.ndarray, np.ndarray]], dimension: int, expected: float) -> None:
    a, b = ct_diagrams[dimension]
    for rel_tol in (0.01, 1e-7):
        result = squared_wasserstein(a, b, rel_tol)
        assert result.lower_bound <= expected + 1e-6
        assert expected - 1e-6 <= result.cost
        assert result.cost - result.lower_bound <= rel_tol * result.cost


def with_places(seed: int, sizes: tuple[int, int], weight: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two diagrams, and where their classes lie: six coordinates of a grid of 32, times `weight`."""
    rng = np.random.default_rng(seed)
    births = [rng.normal(size=n) for n in sizes]
    diagrams = [np.stack([birth, birth + rng.exponential(0.5, len(birth))], axis=1) for birth in births]
    return diagrams, [weight * rng.integers(0, 32, (n, 6)) for n in sizes]


@pytest.mark.parametrize("weight", [0.0, 0.02, 0.1, 1.0])
@pytest.mark.parametrize("sizes", [(0, 3), (1, 1), (30, 40), (400, 250)])
def test_with_places_it_is_the_best_assignment_in_all_coordinates(sizes: tuple[int, int], weight: float) -> None:
    (a, b), (places_a, places_b) = with_places(0, sizes, weight)
    alone_a, alone_b = (np.square(d[:, 1] - d[:, 0]) / 2 for d in (a, b))
    gain = alone_a[:, None] + alone_b - cdist(np.hstack([a, places_a]), np.hstack([b, places_b]), "sqeuclidean")
    gain = np.maximum(gain, 0)  # or both go to the diagonal
    best = alone_a.sum() + alone_b.sum() - gain[linear_sum_assignment(gain, maximize=True)].sum()
    for rel_tol in (0.01, 1e-9):
        result = squared_wasserstein(a, b, rel_tol, places=(places_a, places_b))
        assert result.lower_bound <= best * (1 + 1e-12) and best * (1 - 1e-12) <= result.cost
        assert result.cost - result.lower_bound <= rel_tol * result.cost


def test_places_may_be_tensors() -> None:
    (a, b), places = with_places(0, (3, 4), 1.0)
    tensors = tuple(torch.from_numpy(place).requires_grad_() for place in places)
    assert squared_wasserstein(a, b, places=tensors) == squared_wasserstein(a, b, places=places)


def test_places_that_do_not_fit_are_refused() -> None:
    (a, b), places = with_places(0, (3, 4), 1.0)
    with pytest.raises(ValueError, match="finite numbers"):
        squared_wasserstein(a, b, places=(places[0] * 1j, places[1]))
    with pytest.raises(ValueError, match="diagram a"):
        squared_wasserstein(a, b, places=(places[1], places[1]))
    with pytest.raises(ValueError, match="6 coordinates in a and 3 in b"):
        squared_wasserstein(a, b, places=(places[0], places[1][:, :3]))

"""The squared 2-Wasserstein distance between two persistence diagrams, with a matching and a certified lower bound.

Ground metric Euclidean, power 2, points may go to the diagonal:

    W2² = min over partial matchings of Σ |a_i − b_j|² over the pairs + Σ (death − birth)²/2 over the points alone.

A class that never dies is infinitely far from the diagonal and from one that does: such classes are matched with each
other, at (birth − birth')² a pair.

The matching is found by an auction (`_auction.py`), whose prices prove how far it can be from the best one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from . import _auction as auction
from ._arguments import as_array, checked_tolerance, is_integer
from ._first_use import once
from ._jit import interruptible
from ._kdtree import Tree, build, weights_of
from .persistence import PersistenceDiagram, check_comparable

BIDS_PER_POINT = 200  # 1 % takes about 3, 1e-9 about 20 on diagrams of CT against a noisy copy
LARGE = 20_000  # points of both diagrams, from which on a sample and lifts are worth their time
SAMPLE_STEP = 16
SMALLEST_STEP = 0.25  # of ε-scaling: 0.02 takes two to three times the bids down to 1e-9


@dataclass(frozen=True, eq=False)
class WassersteinResult:
    """A feasible matching, its cost, and what no matching can beat: lower_bound ≤ W2² ≤ cost.

    Results are equal where these three are.

    Attributes:
        cost: Σ of the squared distances along `matching`.
        lower_bound: dual value of the potentials, less its rounding error.
        matching: [k, 2] int64, rows (index into a, index into b), −1 for the diagonal. Every point appears once.
        potentials: f [n] and h [m] with f_i + h_j ≤ |a_i − b_j|², neither above a point's cost alone; NaN for classes
            that never die. Their sum is at most W2².
    """

    cost: float
    lower_bound: float
    matching: np.ndarray
    potentials: tuple[np.ndarray, np.ndarray]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WassersteinResult):
            return NotImplemented
        numbers = (self.cost, self.lower_bound) == (other.cost, other.lower_bound)
        return numbers and np.array_equal(self.matching, other.matching)

    def __hash__(self) -> int:
        return hash((self.cost, self.lower_bound))


def squared_wasserstein(
    a: PersistenceDiagram | Any,
    b: PersistenceDiagram | Any,
    rel_tol: float = 0.01,
    max_bids: int | None = None,
    places: tuple[np.ndarray, np.ndarray] | None = None,
) -> WassersteinResult:
    """W2² between two diagrams, or arrays or tensors [n, 2] and [m, 2] of finite (birth, death), death ≥ birth.

    With `places` [n, d] and [m, d] a pair also costs the squared distance between its two places: the ground metric is
    that of (birth, death, place), and to go to the diagonal costs what it did. Places of classes that never die do not
    count.

    `cost − lower_bound ≤ rel_tol · cost`, unless `max_bids` (default 200 a point) ran out or float64 cannot resolve it:
    then the best matching and bound so far are returned with the gap that they have. Diagrams that differ in the number
    of classes that never die are infinitely far apart; compare `a.finite()` with `b.finite()` to leave them out.

    Raises:
        ValueError: wrong shape, a value that is not finite, a death before its birth, a bad rel_tol or max_bids,
            diagrams of two homology dimensions, or of sublevel and of superlevel sets; says where.
        TypeError: all diagrams of an image in the place of one.
    """
    rel_tol = checked_tolerance(rel_tol)
    if max_bids is not None and (not is_integer(max_bids) or max_bids < 0):
        raise ValueError(f"max_bids must be an integer and not negative, or None; got {max_bids!r}")
    check_comparable(a, b)
    a, b = _checked(a, "a"), _checked(b, "b")
    if places is not None:
        a, b = _placed(a, places[0], "a"), _placed(b, places[1], "b")
        if a.shape[1] != b.shape[1]:
            raise ValueError(f"places have {a.shape[1] - 2} coordinates in a and {b.shape[1] - 2} in b")
    dies_a, dies_b = np.isfinite(a[:, 1]), np.isfinite(b[:, 1])
    if dies_a.all() and dies_b.all():
        return _between_finite(a, b, rel_tol, max_bids)
    return _with_essential(a, b, dies_a, dies_b, _between_finite(a[dies_a], b[dies_b], rel_tol, max_bids))


@once
def warm_up() -> None:
    """Compile the auction for small and for large diagrams, or load what an earlier process has compiled."""
    few = np.array([[0.0, 1.0], [0.0, 2.0]])
    for a in (few, np.zeros((LARGE, 2))):
        _match(a, few[:1], 1e-6, 600)


def _with_essential(
    a: np.ndarray, b: np.ndarray, dies_a: np.ndarray, dies_b: np.ndarray, finite: WassersteinResult
) -> WassersteinResult:
    """The result with the classes that never die, matched in the order of their births, which is optimal on a line."""
    rows_a, rows_b = (np.append(np.flatnonzero(dies), -1) for dies in (dies_a, dies_b))  # −1 stays −1
    matching = [np.stack([rows_a[finite.matching[:, 0]], rows_b[finite.matching[:, 1]]], axis=1)]
    i, j = (np.flatnonzero(~dies)[np.argsort(d[~dies, 0], kind="stable")] for d, dies in ((a, dies_a), (b, dies_b)))
    pairs = min(len(i), len(j))
    matching += [np.stack([i[:pairs], j[:pairs]], axis=1)]
    matching += [np.stack([i[pairs:], np.full(len(i) - pairs, -1)], axis=1)]
    matching += [np.stack([np.full(len(j) - pairs, -1), j[pairs:]], axis=1)]
    cost = float(np.square(a[i[:pairs], 0] - b[j[:pairs], 0]).sum()) if len(i) == len(j) else np.inf
    potentials = np.full(len(a), np.nan), np.full(len(b), np.nan)
    potentials[0][dies_a], potentials[1][dies_b] = finite.potentials
    return WassersteinResult(finite.cost + cost, finite.lower_bound + cost, np.concatenate(matching), potentials)


@interruptible
def _between_finite(a: np.ndarray, b: np.ndarray, rel_tol: float, max_bids: int | None) -> WassersteinResult:
    warm_up()
    if max_bids is None:
        max_bids = BIDS_PER_POINT * (len(a) + len(b))
    (scaled_a, scaled_b), exponent = _scaled(a, b)
    if _diagonal_cost(scaled_b) > _diagonal_cost(scaled_a):  # those with more at stake bid first: fewer bids
        partner, lower, potentials = _match(scaled_b, scaled_a, rel_tol, max_bids)
        matching, potentials = _matching(partner, len(a))[:, ::-1], potentials[::-1]
    else:
        partner, lower, potentials = _match(scaled_a, scaled_b, rel_tol, max_bids)
        matching = _matching(partner, len(b))
    cost = _cost(scaled_a, scaled_b, matching)
    cost, lower = (float(np.ldexp(value, 2 * exponent)) for value in (cost, min(lower, cost)))
    f, h = (np.ldexp(values, 2 * exponent) for values in potentials)
    return WassersteinResult(cost, lower, matching, (f, h))


def _scaled(a: np.ndarray, b: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Both divided by 2**exponent so that the largest coordinate is about 1: without rounding, and squares in range."""
    largest = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    exponent = int(np.frexp(largest)[1])
    return (np.ldexp(a, -exponent), np.ldexp(b, -exponent)), exponent


def _match(
    a: np.ndarray, b: np.ndarray, rel_tol: float, max_bids: int
) -> tuple[np.ndarray, float, tuple[np.ndarray, np.ndarray]]:
    """Match by auctions with smaller and smaller ε.

    Returns the partner in `b` (or −1) of each point of `a`, a lower bound of W2², and the potentials that prove it.
    """
    tree_a, tree_b = _tree(a), _tree(b)
    partner, owner = np.full(tree_a.row.size, -1), np.full(tree_b.row.size, -1)
    at_stake = _diagonal_cost(a) + _diagonal_cost(b)
    persistence = float(tree_a.points[:, 1].sum() + tree_b.points[:, 1].sum())
    bound, _, _ = auction.conjugate(tree_a, tree_b, partner, None)
    # Σ ε. Where the guess is far too low, the floor keeps prices from creeping.
    error = max(9 * rel_tol * _guessed_cost(a, b, bound, at_stake), 0.01 * at_stake)
    best, cost = np.full(len(a), -1), at_stake
    lower, potentials = 0.0, (np.zeros(len(a)), np.zeros(len(b)))
    bids, lifted = 0, _lifted(a, b)
    while cost - lower > rel_tol * cost and bids < max_bids and error > auction.ULP * cost:
        rate = error / persistence
        auction.release(tree_a, tree_b, partner, owner, rate)
        bids += auction.forward(tree_a, tree_b, partner, owner, rate, max_bids - bids)
        bids += auction.reverse(tree_a, tree_b, partner, owner, rate, max_bids - bids, lifted)
        proven = _lower_bound(tree_a, tree_b, partner, owner, lifted)
        if proven > lower:
            lower, potentials = proven, (weights_of(tree_a), weights_of(tree_b))
        candidate = _rows(tree_a, tree_b, partner)
        candidate_cost = _cost(a, b, _matching(candidate, len(b)))
        if candidate_cost < cost:
            best, cost = candidate, candidate_cost
        gap = cost - lower
        error *= min(max(0.9 * rel_tol * cost / gap, SMALLEST_STEP), 0.5) if gap > 0 else 0.5
    return best, lower, potentials


def _guessed_cost(a: np.ndarray, b: np.ndarray, bound: float, at_stake: float) -> float:
    """What the best matching may cost: for large diagrams like that of a sample, else the root of the two bounds.

    The root is 0.1 to 1 of the cost, and the auction takes longer the lower it is. A sample, whose points are farther
    apart, costs 0.8 to 3 times its share. It takes a few percent of the time that it saves, but of small diagrams.
    """
    by_bounds = np.sqrt(max(bound, 0.0) * at_stake)
    if len(a) + len(b) < LARGE:
        return by_bounds
    a, b = a[::SAMPLE_STEP], b[::SAMPLE_STEP]
    sample_at_stake = _diagonal_cost(a) + _diagonal_cost(b)
    if not sample_at_stake > 0:
        return by_bounds
    partner, _, _ = _match(a, b, 0.1, BIDS_PER_POINT * (len(a) + len(b)))
    return _cost(a, b, _matching(partner, len(b))) / sample_at_stake * at_stake


def _lower_bound(
    tree_a: Tree, tree_b: Tree, partner: np.ndarray, owner: np.ndarray, lifted: Literal[True] | None
) -> float:
    """Value of feasible potentials, b's raised against a's, then a's against those, less what rounding may have added.

    u and v of each point are off by a few ulps of the largest coordinate, 1, and by the triangle inequality moving
    `size` points by δ changes W2 by at most δ√size.
    """
    sum_b, rest_b, rounding_b = auction.conjugate(tree_b, tree_a, owner, lifted)
    sum_a, rest_a, rounding_a = auction.conjugate(tree_a, tree_b, partner, None)
    value = max((sum_a + sum_b) + (rest_a + rest_b) - rounding_a - rounding_b, 0.0)
    size = np.count_nonzero(tree_a.row >= 0) + np.count_nonzero(tree_b.row >= 0)
    return max(np.sqrt(value) - 4 * auction.ULP * np.sqrt(size), 0.0) ** 2


def _lifted(a: np.ndarray, b: np.ndarray) -> Literal[True] | None:
    """Whether to search with lifts (see `_kdtree.best_two`)."""
    return True if len(a) + len(b) >= LARGE else None


def _tree(diagram: np.ndarray) -> Tree:
    """Of [n, 2 + d]: birth, death, place."""
    birth, death = diagram[:, 0], diagram[:, 1]
    return build((birth + death) * np.sqrt(0.5), (death - birth) * np.sqrt(0.5), np.ascontiguousarray(diagram[:, 2:]))


def _rows(tree_a: Tree, tree_b: Tree, partner: np.ndarray) -> np.ndarray:
    """`partner`, from slot to slot, as rows of b (or −1) in the order of a's rows."""
    rows = np.full(np.count_nonzero(tree_a.row >= 0), -1)
    slots = np.flatnonzero(partner >= 0)
    rows[tree_a.row.ravel()[slots]] = tree_b.row.ravel()[partner[slots]]
    return rows


def _matching(partner: np.ndarray, size_b: int) -> np.ndarray:
    """[k, 2]: all of a in order with their partners, then the points of b that nobody took."""
    free = np.ones(size_b, dtype=bool)
    free[partner[partner >= 0]] = False
    alone = np.flatnonzero(free)
    left = np.concatenate([np.arange(len(partner)), np.full(len(alone), -1)])
    return np.stack([left, np.concatenate([partner, alone])], axis=1).astype(np.int64)


def _cost(a: np.ndarray, b: np.ndarray, matching: np.ndarray) -> float:
    i, j = matching.T
    pairs = (i >= 0) & (j >= 0)
    between = np.square(a[i[pairs]] - b[j[pairs]]).sum()
    return float(between) + _diagonal_cost(a[i[j < 0]]) + _diagonal_cost(b[j[i < 0]])


def _diagonal_cost(diagram: np.ndarray) -> float:
    return float(0.5 * np.square(diagram[:, 1] - diagram[:, 0]).sum())


def _placed(diagram: np.ndarray, places: np.ndarray, name: str) -> np.ndarray:
    """A diagram [n, 2] with places [n, d] behind: [n, 2 + d]."""
    places = as_array(places, f"the places of diagram {name}")
    is_real = places.dtype.kind in "biuf"
    if not is_real or places.ndim != 2 or len(places) != len(diagram) or not np.isfinite(places).all():
        raise ValueError(
            f"the places of diagram {name} must be finite numbers of the shape [{len(diagram)}, d], one row a class; "
            f"got {places.dtype} of the shape {list(places.shape)}"
        )
    return np.hstack([diagram, places.astype(np.float64)])


def _checked(diagram: PersistenceDiagram | Any, name: str) -> np.ndarray:
    """[n, 2] (birth, death), death ≥ birth; only in a diagram's may a death be infinite."""
    if isinstance(diagram, PersistenceDiagram):
        points = -diagram.points if diagram.superlevel else diagram.points
    else:
        points = as_array(diagram, f"diagram {name}")
    if points.shape == (0,):
        points = np.zeros((0, 2))
    if points.dtype.kind not in "biuf":
        raise ValueError(f"diagram {name} must hold real numbers, got {points.dtype}: {diagram!r:.80}")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"diagram {name} must have the shape [n, 2] of (birth, death), got {list(points.shape)}")
    points = points.astype(np.float64, copy=False)
    finite = np.isfinite(points)
    essential = isinstance(diagram, PersistenceDiagram)
    bad = ~finite.all(axis=1) & ~(essential & finite[:, 0] & (points[:, 1] == np.inf))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"diagram {name}, row {row}: {points[row]} is not finite; give whole diagrams, as from "
            "persistence_diagrams, to compare classes that never die"
        )
    unordered = points[:, 1] < points[:, 0]
    if unordered.any():
        row = int(np.argmax(unordered))
        raise ValueError(f"diagram {name}, row {row}: {points[row]} dies before it is born; give (birth, death)")
    return points

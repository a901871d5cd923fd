"""The squared 2-Wasserstein distance between two persistence diagrams, with a matching and a certified lower bound.

Ground metric Euclidean, power 2, points may go to the diagonal:

    W2² = min over partial matchings of Σ |a_i − b_j|² over the pairs + Σ (death − birth)²/2 over the points alone.

The matching is found by an auction (`_auction.py`), whose prices prove how far it can be from the best one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import _auction as auction
from ._kdtree import Tree, build

BIDS_PER_POINT = 200  # 1 % takes about 3, 1e-9 about 20 on diagrams of CT against a noisy copy
SMALLEST_STEP = 0.25  # of ε-scaling: 0.02 takes two to three times the bids down to 1e-9


@dataclass(frozen=True)
class WassersteinResult:
    """A feasible matching, its cost, and what no matching can beat: lower_bound ≤ W2² ≤ cost.

    Attributes:
        cost: Σ of the squared distances along `matching`.
        lower_bound: Dual value of feasible potentials, less its rounding error.
        matching: [k, 2] int64, rows (index into a, index into b), −1 for the diagonal. Every point appears once.
    """

    cost: float
    lower_bound: float
    matching: np.ndarray


def squared_wasserstein(
    a: np.ndarray, b: np.ndarray, rel_tol: float = 0.01, max_bids: int | None = None
) -> WassersteinResult:
    """W2² between the diagrams `a` [n, 2] and `b` [m, 2] of finite (birth, death), death ≥ birth.

    `cost − lower_bound ≤ rel_tol · cost`, unless `max_bids` (default 200 a point) ran out or float64 cannot resolve it:
    then the best matching and bound so far are returned with the gap that they have.

    Raises:
        ValueError: wrong shape, a value that is not finite, a death before its birth, or rel_tol ≤ 0; says where.
    """
    a, b = _checked(a, "a"), _checked(b, "b")
    if not rel_tol > 0:
        raise ValueError(f"rel_tol must be positive, got {rel_tol}")
    if max_bids is None:
        max_bids = BIDS_PER_POINT * (len(a) + len(b))
    if max_bids < 0:
        raise ValueError(f"max_bids must not be negative, got {max_bids}")
    largest = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    exponent = int(np.frexp(largest)[1])  # powers of two scale without rounding, and squares stay in range
    scaled_a, scaled_b = np.ldexp(a, -exponent), np.ldexp(b, -exponent)
    swap = _diagonal_cost(scaled_b) > _diagonal_cost(scaled_a)  # those with more at stake bid first: fewer bids
    if swap:
        partner, lower = _match(scaled_b, scaled_a, rel_tol, max_bids)
        matching = _matching(partner, len(a))[:, ::-1]
    else:
        partner, lower = _match(scaled_a, scaled_b, rel_tol, max_bids)
        matching = _matching(partner, len(b))
    cost = _cost(scaled_a, scaled_b, matching)
    return WassersteinResult(
        float(np.ldexp(cost, 2 * exponent)), float(np.ldexp(min(lower, cost), 2 * exponent)), matching
    )


def warm_up() -> None:
    """Compile, or load from the cache, so that the first call in a training step is as fast as the others."""
    squared_wasserstein(np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([[0.0, 1.5]]), rel_tol=1e-6)


def _match(a: np.ndarray, b: np.ndarray, rel_tol: float, max_bids: int) -> tuple[np.ndarray, float]:
    """Partner in `b` (or −1) of each point of `a`, and a lower bound of W2², by auctions with smaller and smaller ε."""
    tree_a, tree_b = _tree(a), _tree(b)
    partner, owner = np.full(tree_a.row.size, -1), np.full(tree_b.row.size, -1)
    at_stake = _diagonal_cost(a) + _diagonal_cost(b)
    persistence = float(tree_a.points[:, 1].sum() + tree_b.points[:, 1].sum())
    bound, _ = auction.conjugate(tree_a, tree_b)
    # Σ ε. The root guesses the cost; where it guesses far too low, the floor keeps prices from creeping.
    error = max(9 * rel_tol * np.sqrt(max(bound, 0.0) * at_stake), 0.01 * at_stake)
    best, cost, lower = np.full(len(a), -1), at_stake, 0.0
    bids = 0
    while cost - lower > rel_tol * cost and bids < max_bids and error > auction.ULP * cost:
        rate = error / persistence
        auction.release(tree_a, tree_b, partner, owner, rate)
        bids += auction.forward(tree_a, tree_b, partner, owner, rate, max_bids - bids)
        bids += auction.reverse(tree_a, tree_b, partner, owner, rate, max_bids - bids)
        lower = max(lower, _lower_bound(tree_a, tree_b, len(a) + len(b)))
        candidate = _rows(tree_a, tree_b, partner)
        candidate_cost = _cost(a, b, _matching(candidate, len(b)))
        if candidate_cost < cost:
            best, cost = candidate, candidate_cost
        gap = cost - lower
        error *= min(max(0.9 * rel_tol * cost / gap, SMALLEST_STEP), 0.5) if gap > 0 else 0.5
    return best, lower


def _lower_bound(tree_a: Tree, tree_b: Tree, size: int) -> float:
    """Value of feasible potentials, b's raised against a's, then a's against those, less what rounding may have added.

    u and v of each point are off by a few ulps of the largest coordinate, 1, and by the triangle inequality moving
    `size` points by δ changes W2 by at most δ√size.
    """
    value_b, rounding_b = auction.conjugate(tree_b, tree_a)
    value_a, rounding_a = auction.conjugate(tree_a, tree_b)
    value = max(value_a + value_b - rounding_a - rounding_b, 0.0)
    return max(np.sqrt(value) - 4 * auction.ULP * np.sqrt(size), 0.0) ** 2


def _tree(diagram: np.ndarray) -> Tree:
    birth, death = diagram[:, 0], diagram[:, 1]
    return build((birth + death) * np.sqrt(0.5), (death - birth) * np.sqrt(0.5))


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


def _checked(diagram: np.ndarray, name: str) -> np.ndarray:
    diagram = np.asarray(diagram, dtype=np.float64)
    if diagram.shape == (0,):
        return diagram.reshape(0, 2)
    if diagram.ndim != 2 or diagram.shape[1] != 2:
        raise ValueError(f"diagram {name} must have the shape [n, 2] of (birth, death), got {list(diagram.shape)}")
    finite = np.isfinite(diagram).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"diagram {name}, row {row}: {diagram[row]} is not finite; compare essential classes apart")
    ordered = diagram[:, 1] >= diagram[:, 0]
    if not ordered.all():
        row = int(np.argmin(ordered))
        raise ValueError(f"diagram {name}, row {row}: {diagram[row]} dies before it is born; give (birth, death)")
    return diagram

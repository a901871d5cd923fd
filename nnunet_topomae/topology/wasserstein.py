"""The squared 2-Wasserstein distance between two persistence diagrams, with a matching and a certified lower bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class WassersteinResult:
    """A feasible matching, its cost, and what no matching can beat: ``lower_bound <= W2² <= cost``.

    ``matching`` is [k, 2] int64: rows (index into a, index into b), -1 for the diagonal; every point appears once.
    """

    cost: float
    lower_bound: float
    matching: np.ndarray


def squared_wasserstein(a: np.ndarray, b: np.ndarray, rel_tol: float = 0.01) -> WassersteinResult:
    """W2² between the diagrams ``a`` [n, 2] and ``b`` [m, 2] of finite (birth, death), Euclidean ground metric.

    Raises ValueError where a diagram has another shape, a value that is not finite, or a death before its birth.
    """
    a, b = _checked(a, "a"), _checked(b, "b")
    if not rel_tol > 0:
        raise ValueError(f"rel_tol must be positive, got {rel_tol}")
    owner = _assign_dense(a, b)
    matching = _matching(owner, len(b))
    cost = matching_cost(a, b, matching)
    return WassersteinResult(cost, cost, matching)


def _checked(diagram: np.ndarray, name: str) -> np.ndarray:
    diagram = np.asarray(diagram, dtype=np.float64)
    if diagram.size == 0:
        return diagram.reshape(0, 2)
    if diagram.ndim != 2 or diagram.shape[1] != 2:
        raise ValueError(f"diagram {name} must have shape [n, 2] (birth, death), got {list(diagram.shape)}")
    finite = np.isfinite(diagram).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"diagram {name}, row {row}: {diagram[row]} is not finite; match essential classes apart")
    ordered = diagram[:, 1] >= diagram[:, 0]
    if not ordered.all():
        row = int(np.argmin(ordered))
        raise ValueError(f"diagram {name}, row {row}: death before birth in {diagram[row]}")
    return diagram


def _assign_dense(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each point of ``a`` its partner in ``b`` or -1: the maximum-weight partial matching."""
    difference = a[:, None, :] - b[None, :, :]
    persistence_a, persistence_b = a[:, 1] - a[:, 0], b[:, 1] - b[:, 0]
    saving = 0.5 * (persistence_a[:, None] ** 2 + persistence_b[None, :] ** 2) - (difference**2).sum(axis=-1)
    rows, columns = linear_sum_assignment(np.maximum(saving, 0), maximize=True)
    keep = saving[rows, columns] > 0
    partner = np.full(len(a), -1, dtype=np.int64)
    partner[rows[keep]] = columns[keep]
    return partner


def _matching(partner: np.ndarray, size_b: int) -> np.ndarray:
    """[k, 2] rows for all of a in order, then the points of b that nobody of a took."""
    free = np.setdiff1d(np.arange(size_b), partner)
    left = np.concatenate([np.arange(len(partner)), np.full(len(free), -1)])
    return np.stack([left, np.concatenate([partner, free])], axis=1).astype(np.int64)


def matching_cost(a: np.ndarray, b: np.ndarray, matching: np.ndarray) -> float:
    """Sum of squared distances along ``matching``, a point's distance to the diagonal where its partner is -1."""
    i, j = matching[:, 0], matching[:, 1]
    pairs = (i >= 0) & (j >= 0)
    off_a, off_b = a[i[j < 0]], b[j[i < 0]]
    return float(
        ((a[i[pairs]] - b[j[pairs]]) ** 2).sum()
        + 0.5 * ((off_a[:, 1] - off_a[:, 0]) ** 2).sum()
        + 0.5 * ((off_b[:, 1] - off_b[:, 0]) ** 2).sum()
    )

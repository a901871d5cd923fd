"""Betti matching of two masks: features of one that the other does not have at the same place.

Stucki, Paetzold, Shit, Menze and Bauer, "Topologically faithful image segmentation via induced matching of persistence
barcodes" (ICML 2023), match features of two images A and B through those of a comparison image, here as in their code
the union C = A∪B: two features match where both become the same one of C. Of masks, whose backgrounds are flat, only
linear algebra is left. With im_A, im_B the images of H_k(A) and H_k(B) in H_k(C), mod 2, dimension k has

    m_k = dim(im_A ∩ im_B)  matched pairs,  and  β_k(A) + β_k(B) − 2 m_k  features without a partner.

Their induced matching breaks the ties of a flat background by the order of its cells: its value depends on how a volume
is turned, and is m_k or more, as each order filters H_k(C) by kernels, and where im_A ∩ im_B drops both images drop.
m_k depends on no order. It is also rank(im_A) + rank(im_B) − dim(im_A + im_B). The ranks are persistent Betti numbers
of A ⊂ C and B ⊂ C; the sum is counted by components, as below. Every component counts, none as the essential one.
"""

from __future__ import annotations

from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ._arguments import as_mask
from .metrics import BettiNumbers
from .persistence import persistence_diagrams

CORNERS = np.ones((3, 3, 3), bool)


def betti_matching_error(a: Any, b: Any) -> BettiNumbers:
    """How many components, tunnels and cavities of two masks have no partner at their place in the other mask.

    Args:
        a, b: [D, H, W], arrays or tensors, boolean or 0 and 1. The foreground is 6-connected, what lies outside is
            background, as in `betti_numbers`.
    """
    a, b = as_mask(a), as_mask(b)
    if a.shape != b.shape:
        raise ValueError(f"two masks have one shape; got {list(a.shape)} and {list(b.shape)}")
    union = a | b
    if not union.any():  # also arrays without voxels
        return 0, 0, 0
    (betti_a, rank_a, betti_union), (betti_b, rank_b, _) = (_persistent_betti_numbers(mask, union) for mask in (a, b))
    matched = [rank_a[0] + rank_b[0] - betti_union[0], 0, 0]  # no component of the union is without a voxel of either
    if rank_a[1] and rank_b[1]:
        vanishing = _cocycles_between(a, b, union) - betti_a[0] - betti_b[0] + betti_union[0]
        matched[1] = rank_a[1] + rank_b[1] - (betti_union[1] - vanishing)
    if rank_a[2] and rank_b[2]:
        matched[2] = _shared_cavities(a, b, union)
    components, tunnels, cavities = (x + y - 2 * m for x, y, m in zip(betti_a, betti_b, matched, strict=True))
    return components, tunnels, cavities


def _persistent_betti_numbers(mask: np.ndarray, union: np.ndarray) -> list[list[int]]:
    """By dimension: Betti numbers of the mask, ranks of its homology in the union's, Betti numbers of the union."""
    diagrams = persistence_diagrams(np.float32(2) - mask - union)  # 0 in the mask, 1 in the union, 2 outside
    return [
        [int(np.count_nonzero((diagram.birth <= born) & (diagram.death > alive))) for diagram in diagrams]
        for born, alive in ((0, 0), (0, 1), (1, 1))
    ]


def _shared_cavities(a: np.ndarray, b: np.ndarray, union: np.ndarray) -> int:
    """m_2. By Alexander duality H_2(X) is the functions on components of X's background, up to a constant.

    Of those on the union's background, A's are constant in each component of A's background, B's in each of B's.
    """
    parts, count = ndimage.label(~np.pad(union, 1), CORNERS)
    around_parts = []
    for mask in (a, b):
        around, _ = ndimage.label(~np.pad(mask, 1), CORNERS)
        label_of_part = np.zeros(count + 1, int)
        label_of_part[parts] = around
        around_parts.append(label_of_part[1:])
    groups = _groups(around_parts[0], around_parts[1] + around_parts[0].max())
    return len(np.unique(groups[around_parts[0]])) - 1


def _cocycles_between(a: np.ndarray, b: np.ndarray, union: np.ndarray) -> int:
    """Dimension of the cocycles that stand for classes of H¹(C) which vanish on A and on B.

    β_1(C) − dim(im_A + im_B) such classes there are. Each has a cocycle that is 0 but on edges between A and the rest
    of C, and of one value on all those that touch one component of A∩B. It is unique up to coboundaries: a value for
    each component of A and of B, which do nothing where they are the same all over a component of C.
    """
    parts, count = ndimage.label(a & b)
    edges = []  # by axis the number of each edge's value, 0 for none
    for axis in range(3):
        (a_low, a_high), (in_low, in_high), part = _ends(a, axis), _ends(union, axis), np.maximum(*_ends(parts, axis))
        between = in_low & in_high & (a_low != a_high)
        values = np.where(between, part, 0)
        free = between & (part == 0)
        num_free = np.count_nonzero(free)
        values[free] = count + 1 + np.arange(num_free)
        count += num_free
        edges.append(values)
    squares = []
    for p, q in combinations(range(3), 2):
        sides = [*_ends(edges[p], q), *_ends(edges[q], p)]
        corners = [corner for end in _ends(union, p) for corner in _ends(end, q)]
        touched = reduce(np.logical_and, corners) & (reduce(np.bitwise_or, sides) > 0)
        squares.append(np.stack([side[touched] for side in sides], axis=1))
    equations = np.sort(np.concatenate(squares), axis=1)  # the values of a square add up to 0: two or four of them
    are_two = equations[:, 1] == 0
    groups = _groups(equations[are_two, 2], equations[are_two, 3], count + 1)
    return int(groups.max()) - _rank(groups[equations[~are_two]])  # 0 is a group of its own


def _ends(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """At the low and at the high end of all edges along an axis."""
    low, high = ((slice(None),) * axis + (side,) for side in (slice(None, -1), slice(1, None)))
    return values[low], values[high]


def _groups(one: np.ndarray, other: np.ndarray, num_nodes: int = 0) -> np.ndarray:
    """The number of each node's connected component in a graph of edges one–other."""
    side = max(num_nodes, one.max(initial=-1) + 1, other.max(initial=-1) + 1)
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(side, side))
    groups: np.ndarray = connected_components(graph, directed=False)[1]
    return groups


def _rank(equations: np.ndarray) -> int:
    """Mod 2, of rows of indices of ones; a pair of equal indices is none."""
    pivots: dict[int, set[int]] = {}
    for row in np.unique(np.sort(equations, axis=1), axis=0).tolist():
        ones: set[int] = set()
        for index in row:
            ones ^= {index}
        while ones and (pivot := max(ones)) in pivots:
            ones = ones ^ pivots[pivot]
        if ones:
            pivots[pivot] = ones
    return len(pivots)

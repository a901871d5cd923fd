"""A kd-tree over weighted points of the plane: which points q have the largest `weight(q) − |q − p|²`?

A point may have a place besides, coordinates that count in |q − p|² and not in the boxes: those only bound it from
below.

Weights may change between questions. A node keeps the largest weight below it, so that `top − distance(box, p)²`
bounds what it can offer. Where weights go with v², a large weight stands for far away points only, and this bound says
little. A node therefore keeps its largest `weight − v²` too, its lift: `weight − (v − v_p)²` = `(weight − v²) + 2·v·v_p
− v_p²`, at most `lift + 2·(largest v)·v_p − v_p²`. A search starts at a leaf that is likely near the answer and climbs:
the better the guess, the less there is to look at.

Nodes are numbered as in a binary heap, x above 2x and 2x + 1, but only every third level is used, counted from the
leaves: x has the eight children 8x … 8x + 7. They are one block of memory, whose bounds the compiler computes several
at a time, as it does the values of a leaf's eight points. (Those loops run over `shape[2]`, not over a literal 8: Numba
unrolls the latter and then does not vectorise.) Block 0 holds the nodes of the highest level, at most four.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._jit import inline, jit, trailing_zeros

LEAST_U, LARGEST_U, LEAST_V, LARGEST_V, TOP, LIFT = range(6)  # rows of a block
MARGIN = 8 * 2.0**-52
WAITING = 512  # nodes: at most eight a level, and a tree of 8^20 leaves has 21


class Tree(NamedTuple):
    """Points in slots, eight a leaf: slot s is [s >> 3, ..., s & 7]. An empty slot has row −1 and weight −∞."""

    points: np.ndarray  # [leaves, 3, 8]: u, v, weight
    places: np.ndarray  # [leaves, 8, d]: further coordinates; d may be 0
    row: np.ndarray  # [leaves, 8] int64: where the point stands in the caller's arrays
    blocks: np.ndarray  # [blocks, 6, 8]: the children's boxes, largest weights and lifts


class Waiting(NamedTuple):
    """Room for the nodes that a search has yet to visit."""

    node: np.ndarray
    bound: np.ndarray


@inline
def u_of(tree, slot):
    return tree.points[slot >> 3, 0, slot & 7]


@inline
def v_of(tree, slot):
    return tree.points[slot >> 3, 1, slot & 7]


@inline
def squared_place_distance(a, i, b, j):
    total = 0.0
    for k in range(a.places.shape[2]):
        difference = a.places[i >> 3, i & 7, k] - b.places[j >> 3, j & 7, k]
        total += difference * difference
    return total


@inline
def weight_of(tree, slot):
    return tree.points[slot >> 3, 2, slot & 7]


@inline
def set_weight(tree, slot, weight):
    """Whoever sets weights calls `refresh` or `refresh_all` before the next search."""
    tree.points[slot >> 3, 2, slot & 7] = weight


def weights_of(tree: Tree) -> np.ndarray:
    """[n] weights in the order of the caller's arrays."""
    weights = np.empty(np.count_nonzero(tree.row >= 0))
    weights[tree.row[tree.row >= 0]] = tree.points[:, 2][tree.row >= 0]
    return weights


@jit
def set_weights(tree, weights):
    """Give all points weights, in the order of the caller's arrays, but none above v²."""
    for slot in range(tree.row.size):
        if row_of(tree, slot) >= 0:
            set_weight(tree, slot, min(weights[row_of(tree, slot)], v_of(tree, slot) ** 2))
    refresh_all(tree)


@inline
def row_of(tree, slot):
    return tree.row[slot >> 3, slot & 7]


@jit
def waiting_room():
    return Waiting(np.empty(WAITING, np.int64), np.empty(WAITING, np.float64))


@jit
def _select(order, key, low, high, k):
    """Reorder order[low:high] so that position k holds what sorting by key would put there (Hoare's quickselect)."""
    high -= 1
    while low < high:
        first, middle, last = key[order[low]], key[order[(low + high) >> 1]], key[order[high]]
        pivot = max(min(first, middle), min(max(first, middle), last))
        i, j = low, high
        while i <= j:
            while key[order[i]] < pivot:
                i += 1
            while key[order[j]] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            return


@jit
def _spatial_order(u, v, depth):
    """Rows in the order of the leaves: every node halves its points at the median along its longer side.

    The side along v counts double: weights go with v, so that narrow ranges of v make tight bounds.
    """
    n = len(u)
    order = np.arange(n)
    for level in range(depth):
        for node in range(1 << level):
            low, high = (node * n) >> level, ((node + 1) * n) >> level
            least_u, largest_u, least_v, largest_v = np.inf, -np.inf, np.inf, -np.inf
            for k in range(low, high):
                q = order[k]
                least_u, largest_u = min(least_u, u[q]), max(largest_u, u[q])
                least_v, largest_v = min(least_v, v[q]), max(largest_v, v[q])
            key = u if largest_u - least_u >= 2 * (largest_v - least_v) else v
            _select(order, key, low, high, ((2 * node + 1) * n) >> (level + 1))
    return order


@jit
def build(u, v, places):
    """The tree of the points (u, v) [n] at `places` [n, d], all of weight 0."""
    n = len(u)
    depth = 0
    while n > 8 << depth:
        depth += 1
    leaves = 1 << depth
    points = np.zeros((leaves, 3, 8))
    points[:, 2] = -np.inf
    blocks = np.full((max(1, leaves >> 2), 6, 8), -np.inf)
    blocks[:, LEAST_U] = np.inf
    blocks[:, LEAST_V] = np.inf
    tree = Tree(points, np.zeros((leaves, 8, places.shape[1])), np.full((leaves, 8), -1), blocks)
    order = _spatial_order(u, v, depth)
    for leaf in range(leaves):
        start = (leaf * n) >> depth
        for k in range(((leaf + 1) * n >> depth) - start):
            q = order[start + k]
            points[leaf, 0, k], points[leaf, 1, k], points[leaf, 2, k] = u[q], v[q], 0.0
            tree.places[leaf, k] = places[q]
            tree.row[leaf, k] = q
            _enlarge(tree, leaves + leaf, u[q], u[q], v[q], v[q])
    while leaves >= 8:
        leaves >>= 3
        for x in range(leaves, 2 * leaves):
            for k in range(8):
                block = blocks[x]
                _enlarge(tree, x, block[LEAST_U, k], block[LARGEST_U, k], block[LEAST_V, k], block[LARGEST_V, k])
    refresh_all(tree)
    return tree


@inline
def _enlarge(tree, x, least_u, largest_u, least_v, largest_v):
    block, k = tree.blocks[x >> 3], x & 7
    block[LEAST_U, k] = min(block[LEAST_U, k], least_u)
    block[LARGEST_U, k] = max(block[LARGEST_U, k], largest_u)
    block[LEAST_V, k] = min(block[LEAST_V, k], least_v)
    block[LARGEST_V, k] = max(block[LARGEST_V, k], largest_v)


@inline
def _top_of_leaf(tree, leaf):
    top = -np.inf
    for k in range(8):
        top = max(top, tree.points[leaf, 2, k])
    return top


@inline
def _lift_of_leaf(tree, leaf):
    lift = -np.inf
    for k in range(8):
        lift = max(lift, tree.points[leaf, 2, k] - tree.points[leaf, 1, k] * tree.points[leaf, 1, k])
    return lift


@inline
def _largest_of_block(tree, row, x):
    largest = -np.inf
    for k in range(8):
        largest = max(largest, tree.blocks[x, row, k])
    return largest


@jit
def largest_weight(tree):
    return _largest_of_block(tree, TOP, 0)


@jit
def refresh_all(tree):
    """Make every node's largest weight and lift agree with the points'."""
    first = len(tree.points)
    for leaf in range(first):
        x = first + leaf
        tree.blocks[x >> 3, TOP, x & 7] = _top_of_leaf(tree, leaf)
        tree.blocks[x >> 3, LIFT, x & 7] = _lift_of_leaf(tree, leaf)
    while first >= 8:
        first >>= 3
        for x in range(first, 2 * first):
            for row in (TOP, LIFT):
                tree.blocks[x >> 3, row, x & 7] = _largest_of_block(tree, row, x)


@inline
def refresh(tree, slot, row):
    """Make the largest weights (TOP) or lifts (LIFT) of the nodes above one slot agree with its weight."""
    leaf = slot >> 3
    x = len(tree.points) + leaf
    largest = _top_of_leaf(tree, leaf) if row == TOP else _lift_of_leaf(tree, leaf)
    while tree.blocks[x >> 3, row, x & 7] != largest:
        tree.blocks[x >> 3, row, x & 7] = largest
        x >>= 3
        if x == 0:
            return
        largest = _largest_of_block(tree, row, x)


@inline
def _value(points, leaf, k, u, v):
    du, dv = points[leaf, 0, k] - u, points[leaf, 1, k] - v
    return points[leaf, 2, k] - du * du - dv * dv


@inline
def _bound(blocks, x, k, u, v):
    du = max(blocks[x, LEAST_U, k] - u, u - blocks[x, LARGEST_U, k], 0.0)
    dv = max(blocks[x, LEAST_V, k] - v, v - blocks[x, LARGEST_V, k], 0.0)
    return blocks[x, TOP, k] - du * du - dv * dv


@inline
def _lifted_bound(blocks, x, k, u, v):
    """The smaller of both bounds, for v ≥ 0 and weights of at most v².

    The second is computed by other operations than the values that it bounds, so it gets a margin. With t = 2·v·v_p at
    the largest v: a value above −v_p² has a weight between −t and t + v² in size, and is computed to within 5 ulps of
    the weight and 3 of v_p²; the bound itself, to within 4 ulps of t, 2 of v² and 2 of v_p².
    """
    du = max(blocks[x, LEAST_U, k] - u, u - blocks[x, LARGEST_U, k], 0.0)
    dv = max(blocks[x, LEAST_V, k] - v, v - blocks[x, LARGEST_V, k], 0.0)
    v_max = blocks[x, LARGEST_V, k]
    t, v_squared = 2 * v * v_max, v * v
    lifted = (blocks[x, LIFT, k] + t - v_squared) + MARGIN * (2 * t + v_max * v_max + v_squared)
    return min(blocks[x, TOP, k] - du * du - dv * dv, lifted - du * du)


@inline
def _points_above(points, leaf, u, v, threshold):
    """Bit k says that the leaf's point k has a value above the threshold."""
    mask = 0
    for k in range(points.shape[2]):
        mask |= (1 << k) if _value(points, leaf, k, u, v) > threshold else 0
    return mask


@inline
def _children_above(blocks, x, u, v, threshold, lifted):
    """Bit k says that the block's child k may hold a value above the threshold."""
    mask = 0
    if lifted is None:
        for k in range(blocks.shape[2]):
            mask |= (1 << k) if _bound(blocks, x, k, u, v) > threshold else 0
    else:
        for k in range(blocks.shape[2]):
            mask |= (1 << k) if _lifted_bound(blocks, x, k, u, v) > threshold else 0
    return mask


@jit
def best_two(tree, guess, other, slot_p, floor, lifted, waiting):
    """(best value, second best, slot of the best) of `weight(q) − |q − p|²` over the points q, p in a slot of `other`.

    Only values above `floor` count: where there is none, the answer is (floor, floor, −1). The search starts in the
    leaf of the slot `guess`. `lifted`: True to use the lifts too, which must be fresh; None
    (not False) to leave them out, of the compiled code too, which is faster where they do not help.
    """
    points, blocks = tree.points, tree.blocks
    u, v = u_of(other, slot_p), v_of(other, slot_p)
    node, bound = waiting.node, waiting.bound
    first = len(points)
    best, second, slot = floor, floor, -1
    climb = first + (guess >> 3)
    node[0], bound[0] = climb, np.inf
    count = 1
    while True:
        while count > 0:
            count -= 1
            x = node[count]
            if bound[count] <= second:
                continue
            if x < first:
                mask = _children_above(blocks, x, u, v, second, lifted)
                count = _wait(blocks, x, mask, u, v, lifted, node, bound, count)
                continue
            leaf = x - first
            mask = _points_above(points, leaf, u, v, second)
            while mask:
                k = trailing_zeros(mask)
                mask &= mask - 1
                value = _value(points, leaf, k, u, v) - squared_place_distance(tree, 8 * leaf + k, other, slot_p)
                if value > best:
                    best, second, slot = value, best, 8 * leaf + k
                elif value > second:
                    second = value
        if climb == 0:
            return best, second, slot
        siblings = _children_above(blocks, climb >> 3, u, v, second, lifted) & ~(1 << (climb & 7))
        climb >>= 3
        count = _wait(blocks, climb, siblings, u, v, lifted, node, bound, 0)


@inline
def _wait(blocks, x, mask, u, v, lifted, node, bound, count):
    """Let the block's children in the mask wait for their visit. Returns how many nodes wait."""
    while mask:
        k = trailing_zeros(mask)
        mask &= mask - 1
        node[count] = 8 * x + k
        if lifted is None:
            bound[count] = _bound(blocks, x, k, u, v)
        else:
            bound[count] = _lifted_bound(blocks, x, k, u, v)
        count += 1
    return count

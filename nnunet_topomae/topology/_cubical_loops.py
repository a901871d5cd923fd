"""Dimension 1: which edge made the loop that a critical square ends.

The boundary of a critical square s is a loop, and its class does not change when boundaries of squares older than s
are added (mod 2). Let v be the highest voxel of the loop. If squares of v's lower star can cancel the loop's edges at
v, they are added, and the loop moves down. If not, some component of v's link holds an odd number of those edges; the
last such component's critical edge, the loop's pivot, cannot be removed by v's squares. If no other loop has this
pivot, s ends the class that this edge began. If the loop of an older square has it, that loop is added; if that of a
younger one, the two change places and the younger goes on. Squares can therefore come in any order, and raster order
keeps the work local.

Edges that join components, and so close no loop, are left out of all loops: none of them is a pivot, and without these
rows the reduction of the other rows is the same. That halves what is carried along.

This is the reduction of the boundary matrix restricted to critical cells, with columns that are brought down only as
far as needed (P. Guillou, J. Vidal, J. Tierny, "Discrete Morse Sandwich", TVCG 2023).

Data. A loop at work lies in the voxels' records: which edges of a voxel's lower star belong to it (CHAIN), and
whether the voxel is in the queue of voxels yet to be looked at (QUEUED). The queue is a binary heap of rank << 32 |
voxel. A loop at rest is a run of voxel << 6 | edges in the pool. A square is voxel << 4 | its number, its age rank <<
4 | its number.
"""

from __future__ import annotations

import numpy as np

from ._cubical_lower_stars import (
    CHAIN,
    EDGE_SHIFT,
    EDGES_OF_SQUARE,
    ODD,
    QUEUED,
    Grid,
    Tables,
    edges_of,
    rank_of,
    squares_of,
)
from ._jit import inline, jit, pointer, trailing_zeros

VOXEL = (1 << 32) - 1  # in an item of the queue
ALL_EDGES = 63 << EDGE_SHIFT
FILL_KEY = (1 << 18) - 1  # squares and chain of a record

# Columns of the table of pairs, which has one row a pivot.
PIVOT = 0  # voxel << 3 | direction
AGE = 1  # of the square
START, STOP = 2, 3  # of the loop in the pool
NEXT = 4  # pair with a pivot at the same voxel, or -1
COLUMNS = 5


def loop_pairs(
    order: np.ndarray,
    records: np.ndarray,
    joining: np.ndarray,
    loops: int,
    loop_squares: np.ndarray,
    first_pair: np.ndarray,
    pool: np.ndarray,
    grid: Grid,
    tables: Tables,
) -> np.ndarray:
    """[loops, 2] int32 (birth, death) voxels of the loops.

    The records are spent. `first_pair` [records.size] int32 and `pool` int64 are to work in. Images come with up to two
    entries of the pool a voxel (noise); where there are more, a larger one takes its place.
    """
    _keep_edges(records, joining)
    squares = _listed(loop_squares, loops)
    pairs = np.empty((len(squares), COLUMNS), np.int64)
    first_pair[:] = -1  # of each voxel
    queue = np.empty(len(order) + 1, np.int64)
    done, num_pairs, used = 0, 0, 0
    while done < len(squares):
        done, num_pairs, used, wanted = _reduce(
            squares, done, order, records, grid.square, grid.far_edges, EDGES_OF_SQUARE, tables.forest, tables.fill,
            queue, pairs, num_pairs, first_pair, pool, used,
        )  # fmt: skip
        if done < len(squares):
            pool, used = _compacted(pool, pairs[:num_pairs], wanted)
    return _voxels(pairs, order)


@jit
def _keep_edges(records, kept):
    for voxel in range(records.size):
        records[voxel] = records[voxel] & ~ALL_EDGES | np.int64(kept[voxel]) << EDGE_SHIFT


@jit
def _listed(loop_squares, loops):
    """[loops] the squares that end one: as many as edges begin one."""
    listed = np.empty(loops, np.int64)
    count = 0
    for voxel in range(loop_squares.size):
        squares = np.int64(loop_squares[voxel])
        while squares:
            listed[count] = voxel << 4 | trailing_zeros(squares)
            squares &= squares - 1
            count += 1
    return listed


@jit
def _voxels(pairs, order):
    voxels = np.empty((len(pairs), 2), np.int32)
    for i in range(len(pairs)):
        voxels[i, 0] = pairs[i, PIVOT] >> 3
        voxels[i, 1] = order[pairs[i, AGE] >> 4]
    return voxels


@jit
def _compacted(pool, pairs, wanted):
    """A new pool with the loops that are in use, at least as much room again, and `wanted` entries more."""
    total = np.sum(pairs[:, STOP] - pairs[:, START])
    new = np.empty(2 * total + wanted, np.int64)
    used = 0
    for i in range(len(pairs)):
        start, stop = pairs[i, START], pairs[i, STOP]
        new[used : used + stop - start] = pool[start:stop]
        pairs[i, START] = used
        used += stop - start
        pairs[i, STOP] = used
    return new, used


@inline
def _push(queue, size, item):
    i = size
    while i > 0:
        above = (i - 1) >> 1
        if queue[above] > item:
            break
        queue[i] = queue[above]
        i = above
    queue[i] = item


@inline
def _pop(queue, size):
    """Remove the highest of `size` items."""
    last = queue[size - 1]
    queue[size - 1] = queue[size] = -1  # below all others, so that the last one needs no sibling
    i = 0
    below = 1
    while below < size:
        below += queue[below + 1] > queue[below]
        if queue[below] <= last:
            break
        queue[i] = queue[below]
        i = below
        below = 2 * i + 1
    queue[i] = last


@inline
def _add_edges(records, queue, size, voxel, record, edges):
    """Add edges of a voxel's lower star to the loop; the queue's new size."""
    records[voxel] = record ^ edges | QUEUED
    if record & QUEUED:
        return size
    _push(queue, size, rank_of(record) << 32 | voxel)
    return size + 1


@inline
def _add_far_edges(records, queue, size, voxel, squares, opposite, far_edges):
    """Add those edges of a voxel's squares that do not touch the voxel nor join components; the queue's new size."""
    while squares:
        k = trailing_zeros(squares)
        squares &= squares - 1
        corner = voxel + opposite[k]
        for side in range(2):
            far_edge = 6 * k + 3 * side
            near = voxel + far_edges[far_edge]
            near_is_higher = records[near] > records[corner]
            higher = near if near_is_higher else corner
            record = records[near] if near_is_higher else records[corner]
            edge = far_edges[far_edge + 1] if near_is_higher else far_edges[far_edge + 2]
            if edges_of(record) & edge == 0:
                size = _add_edges(records, queue, size, higher, record, edge)
    return size


@inline
def _add_loop(records, queue, size, pool, start, stop):
    for i in range(start, stop):
        voxel = pool[i] >> 6
        size = _add_edges(records, queue, size, voxel, records[voxel], pool[i] & CHAIN)
    return size


@inline
def _copy_loop(records, queue, size, pool, used):
    """Copy the loop at work to the pool; the pool's new end."""
    for i in range(size):
        voxel = queue[i] & VOXEL
        edges = records[voxel] & CHAIN
        pool[used] = voxel << 6 | edges
        used += edges != 0
    return used


@inline
def _clear(records, queue, size):
    for i in range(size):
        records[queue[i] & VOXEL] &= ~(CHAIN | QUEUED)


@jit
def _reduce(
    squares, done, order, records, opposite, far_edges, edges_of_square, forest, fill,
    queue, pairs, num_pairs, first_pair, pool, used,
):  # fmt: skip
    """Find the pivots of squares[done:], until all are found or the pool is full.

    Returns:
        how many squares are done (where the pool was full, the next one has been written to its place), how many
        pairs there are, how much of the pool is used, and the room that was wanted.
    """
    # One long function on pointers: Numba's calls with arrays would cost more than the work they do here.
    num_squares, room = squares.size, pool.size
    squares, order, records = pointer(squares), pointer(order), pointer(records)
    opposite, far_edges, edges_of_square = pointer(opposite), pointer(far_edges), pointer(edges_of_square)
    forest, fill, queue, pool = pointer(forest), pointer(fill), pointer(queue), pointer(pool)
    pairs, first_pair = pointer(pairs), pointer(first_pair)
    while done < num_squares:
        voxel = squares[done] >> 4
        k = squares[done] & 15
        age = rank_of(records[voxel]) << 4 | k
        # At its own voxel only the forest's squares are sure to be older; they cancel the square's two edges there.
        tree = np.int64(fill[forest[squares_of(records[voxel])] << 6 | edges_of_square[k]])
        size = _add_far_edges(records, queue, 0, voxel, tree | 1 << k, opposite, far_edges)
        while True:
            voxel = queue[0] & VOXEL
            record = records[voxel]
            key = record & FILL_KEY
            filling = np.int64(fill[key])
            while filling >= ODD and edges_of(record) >> (filling & 7) & 1:  # that edge may be there or not
                key ^= 1 << (filling & 7)
                filling = np.int64(fill[key])
            if filling < ODD:
                _pop(queue, size)
                records[voxel] = record & ~(CHAIN | QUEUED)
                size = _add_far_edges(records, queue, size - 1, voxel, filling, opposite, far_edges)
                if size == 0:
                    raise AssertionError("a critical square's loop has vanished")
                continue

            pivot = voxel << 3 | filling & 7
            pair = first_pair[voxel]
            while pair >= 0 and pairs[COLUMNS * pair + PIVOT] != pivot:
                pair = pairs[COLUMNS * pair + NEXT]
            row = COLUMNS * pair
            if pair >= 0 and pairs[row + AGE] < age:
                size = _add_loop(records, queue, size, pool, pairs[row + START], pairs[row + STOP])
                continue

            if used + size > room:
                _clear(records, queue, size)
                squares[done] = np.int64(order[age >> 4]) << 4 | age & 15
                return done, num_pairs, used, size
            start = used
            used = _copy_loop(records, queue, size, pool, used)
            if pair < 0:
                _clear(records, queue, size)
                row = COLUMNS * num_pairs
                pairs[row + PIVOT] = pivot
                pairs[row + AGE] = age
                pairs[row + START] = start
                pairs[row + STOP] = used
                pairs[row + NEXT] = first_pair[voxel]
                first_pair[voxel] = num_pairs
                num_pairs += 1
                done += 1
                break
            size = _add_loop(records, queue, size, pool, pairs[row + START], pairs[row + STOP])
            age, pairs[row + AGE] = pairs[row + AGE], age
            pairs[row + START] = start
            pairs[row + STOP] = used
    return done, num_pairs, used, 0

"""Dimensions 0 and 2: the components of sublevel sets and their cavities, by union-find.

Going up, voxels join the components below them. Going down, cubes join the cavities above them: dimension 2 is
dimension 0 of the complement, in which cubes are the nodes, squares the links, and the outside of the volume is the
oldest component. Where two meet, the younger one ends (the elder rule).

A voxel with a lower star joins a component below it through an edge of that lower star, and only critical edges can
join two components. The same holds of cubes and critical squares (P. Guillou, J. Vidal, J. Tierny, "Discrete Morse
Sandwich", TVCG 2023). Voxels are numbered by component in the order in which they come, so that of two components the
elder has the smaller number. Cubes point onward along the pairs of their lower star, so that chains of pointers lead
from any cube to the maximum where its cavity ends.
"""

from __future__ import annotations

import numpy as np

from ._cubical_lower_stars import cubes_of, edges_of, rank_of, squares_of
from ._cubical_ranks import BORDER_RANK, row_start
from ._jit import inline, jit, leading_zeros, pointer, trailing_zeros


@inline
def _number(onward, node):
    """The number at the end of a chain of pointers, stored there as its complement; halves the chain's length."""
    following = onward[node]
    while following >= 0:
        onward[node] = onward[following]
        node = following
        following = onward[node]
    return ~following


@inline
def _root(parent, number):
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


@jit
def component_pairs(order, records, component, direction, first_edges, root):
    """The components that end, and the edges that end them. `component`: [records.size] int32 to work in.

    Returns:
        [n, 2] int32 (birth, death) voxels of the components, by ascending death.
        [records.size] uint8: each voxel's edges that join it to a component, or two components.
        the number of all other critical edges: each begins a loop.
    """
    joining = np.empty(records.size, np.uint8)
    minima = order.size - records.size
    for voxel in range(records.size):
        joining[voxel] = first_edges[squares_of(records[voxel])] & edges_of(records[voxel])
        minima += joining[voxel] == 0

    minimum = np.empty(minima, np.int32)  # of each component
    parent = np.empty(minima, np.int32)
    pairs = np.empty((minima - 1, 2), np.int32)
    loops = _join(order, records, component, direction, root, joining, minimum, parent, pairs)
    return pairs, joining, loops


@jit
def _join(order, records, component, direction, root, joining, minimum, parent, pairs):
    """Write the pairs, take the edges that begin a loop from `joining`, and return their number."""
    size = order.size
    order, records, component = pointer(order), pointer(records), pointer(component)
    direction, root, joining = pointer(direction), pointer(root), pointer(joining)
    minimum, parent, pairs = pointer(minimum), pointer(parent), pointer(pairs)
    components, found, loops = 0, 0, 0
    for i in range(size):
        voxel = order[i]
        edges = np.int64(joining[voxel])
        if edges == 0:
            component[voxel] = components
            minimum[components] = voxel
            parent[components] = components
            components += 1
            continue
        component[voxel] = component[voxel + direction[trailing_zeros(edges)]]
        if edges & (edges - 1) == 0:
            continue
        first = np.int64(root[squares_of(records[voxel])]) or edges & -edges
        elder = _root(parent, component[voxel + direction[trailing_zeros(first)]])
        edges ^= first
        while edges:
            edge = trailing_zeros(edges)
            edges &= edges - 1
            younger = _root(parent, component[voxel + direction[edge]])
            if elder == younger:
                joining[voxel] ^= 1 << edge
                loops += 1
                continue
            elder, younger = min(elder, younger), max(elder, younger)
            parent[younger] = elder
            pairs[found] = minimum[younger]
            pairs[found + 1] = voxel
            found += 2
    return loops


@jit
def cavity_pairs(order, records, onward, grid, critical, way_out, cubes_of_square):
    """The cavities, and the critical squares that close none. `onward`: [records.size] int32 to work in.

    Returns:
        [n, 2] int32 (birth, death) voxels of the cavities, by descending birth.
        [records.size] uint16: each voxel's critical squares that end a loop.
    """
    death_rank = np.empty(order.size + 1, np.int32)  # of each maximum
    loop_squares = np.zeros(records.size, np.uint16)
    maxima = _point_onward(order, records, onward, grid, critical, way_out, loop_squares, death_rank)
    parent = np.arange(maxima, dtype=np.int32)
    pairs = np.empty((maxima - 1, 2), np.int32)
    _close(order, onward, grid.cube_index, cubes_of_square, loop_squares, death_rank, parent, pairs)
    return pairs, loop_squares


@jit
def _point_onward(order, records, onward, grid, critical, way_out, loop_squares, death_rank):
    """Point cubes onward, or at maxima, of which the outside is number 0; their number, with each one's rank.

    Critical squares are written to `loop_squares`.
    """
    outside = np.int32(0)
    onward[:] = ~outside
    death_rank[outside] = BORDER_RANK
    maxima = 1
    cubes, ways = np.empty(grid.width, np.int32), np.empty(grid.width, np.int32)
    step_x, step_y, step_z = grid.direction[1], grid.direction[3], grid.direction[5]
    order, records, onward = pointer(order), pointer(records), pointer(onward)
    critical, way_out = pointer(critical), pointer(way_out)
    loop_squares, death_rank = pointer(loop_squares), pointer(death_rank)
    for z in range(grid.depth):
        for y in range(grid.height):
            start = row_start(z, y, grid.height, grid.width)
            for x in range(grid.width):
                record = records[start + x]
                star = cubes_of(record) << 12 | squares_of(record)
                loop_squares[start + x] = critical[star]
                cubes[x], ways[x] = cubes_of(record), way_out[star]
                if cubes[x] == 255:
                    death_rank[maxima] = rank_of(record)
                    maxima += 1
            # One cube of each voxel of a row at a time, and no branch: vector instructions.
            for k in range(8):
                cube, first = start + grid.cube_index[k], start + grid.cube_index[0]
                bit, bit_x, bit_y, bit_z = 1 << k, 1 << 3 * k, 2 << 3 * k, 4 << 3 * k
                for x in range(grid.width):
                    way = first + x
                    way += step_x if ways[x] & bit_x else 0
                    way += step_y if ways[x] & bit_y else 0
                    way += step_z if ways[x] & bit_z else 0
                    onward[cube + x] = way if cubes[x] & bit else onward[cube + x]
    for number in range(1, maxima):  # the first cube around a maximum, to which the other seven lead
        onward[order[death_rank[number]] + grid.cube_index[0]] = ~number
    return maxima


@jit
def _close(order, onward, cube_index, cubes_of_square, loop_squares, death_rank, parent, pairs):
    """Write the pairs, and take the squares that close a cavity from `loop_squares`."""
    size = order.size
    order, onward, cube_index = pointer(order), pointer(onward), pointer(cube_index)
    cubes_of_square, loop_squares = pointer(cubes_of_square), pointer(loop_squares)
    death_rank, parent, pairs = pointer(death_rank), pointer(parent), pointer(pairs)
    found = 0
    for i in range(size - 1, -1, -1):
        voxel = order[i]
        squares = np.int64(loop_squares[voxel])
        while squares:
            k = 63 - leading_zeros(squares)
            squares ^= 1 << k
            elder = _root(parent, _number(onward, voxel + cube_index[cubes_of_square[2 * k]]))
            younger = _root(parent, _number(onward, voxel + cube_index[cubes_of_square[2 * k + 1]]))
            if elder == younger:
                continue
            if death_rank[elder] < death_rank[younger]:
                elder, younger = younger, elder
            parent[younger] = elder
            loop_squares[voxel] ^= 1 << k
            pairs[found] = voxel
            pairs[found + 1] = order[death_rank[younger]]
            found += 2

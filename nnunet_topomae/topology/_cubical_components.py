"""Dimensions 0 and 2: the components of sublevel sets and their cavities, by union-find.

Going up, voxels join the components below them. Going down, cubes join the cavities above them: dimension 2 is
dimension 0 of the complement, in which cubes are the nodes, squares the links, and the outside of the volume is the
oldest component. Where two meet, the younger one ends (the elder rule).

Each node first points onward along the pairs of its lower star, so that chains of pointers lead from any node to the
minimum or maximum where its component began; these are numbered, and union-find runs on the numbers. Only critical
edges and squares join two of them (P. Guillou, J. Vidal, J. Tierny, "Discrete Morse Sandwich", TVCG 2023).
"""

from __future__ import annotations

import numpy as np

from ._cubical_lower_stars import BORDER_RANK, cubes_of, edges_of, rank_of, squares_of
from ._jit import jit, leading_zeros, trailing_zeros


@jit
def _number(onward, node):
    """The number at the end of a chain of pointers, stored there as its complement; halves the chain's length."""
    following = onward[node]
    while following >= 0:
        onward[node] = onward[following]
        node = following
        following = onward[node]
    return ~following


@jit
def _root(parent, number):
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


@jit
def component_pairs(order, records, direction, first_edges):
    """[n, 2] int32 (birth, death) voxels of the components that end, by ascending death."""
    onward = np.empty(records.size, np.int32)
    birth_rank = np.empty(order.size, np.int32)
    joins = np.zeros(order.size, np.bool_)  # by rank: whether the voxel has a critical edge
    minima = 0
    for voxel in range(records.size):
        rank = rank_of(records[voxel])
        if rank == BORDER_RANK:
            continue
        firsts = first_edges[squares_of(records[voxel])] & edges_of(records[voxel])
        if firsts == 0:
            birth_rank[minima] = rank
            onward[voxel] = ~minima
            minima += 1
        else:
            onward[voxel] = voxel + direction[trailing_zeros(firsts)]
            joins[rank] = firsts & (firsts - 1) != 0

    parent = np.arange(minima)
    pairs = np.empty((minima - 1, 2), np.int32)
    found = 0
    for rank in range(order.size):
        if not joins[rank]:
            continue
        voxel = order[rank]
        firsts = first_edges[squares_of(records[voxel])] & edges_of(records[voxel])
        elder = _root(parent, _number(onward, voxel))
        firsts &= firsts - 1
        while firsts:
            younger = _root(parent, _number(onward, voxel + direction[trailing_zeros(firsts)]))
            firsts &= firsts - 1
            if elder == younger:
                continue
            if birth_rank[elder] > birth_rank[younger]:
                elder, younger = younger, elder
            parent[younger] = elder
            pairs[found, 0] = order[birth_rank[younger]]
            pairs[found, 1] = voxel
            found += 1
    return pairs


@jit
def cavity_pairs(order, records, cube_index, critical, way_out, cubes_of_square):
    """The cavities, and the critical squares that close none.

    Returns:
        [n, 2] int32 (birth, death) voxels of the cavities, by descending birth.
        [records.size] uint16: each voxel's critical squares that end a loop.
    """
    outside = np.int32(0)
    onward = np.full(records.size, ~outside, np.int32)
    death_rank = np.empty(order.size + 1, np.int32)
    death_rank[outside] = BORDER_RANK
    joins = np.zeros(order.size, np.bool_)  # by rank: whether the voxel has a critical square
    maxima = 1
    for voxel in range(records.size):
        rank = rank_of(records[voxel])
        if rank == BORDER_RANK:
            continue
        cubes = cubes_of(records[voxel])
        if cubes == 255:
            death_rank[maxima] = rank
            for k in range(8):
                onward[voxel + cube_index[k]] = ~maxima
            maxima += 1
            continue
        star = squares_of(records[voxel]) << 8 | cubes
        joins[rank] = critical[star] != 0
        while cubes:
            k = trailing_zeros(cubes)
            cubes &= cubes - 1
            onward[voxel + cube_index[k]] = voxel + cube_index[way_out[star] >> (3 * k) & 7]

    parent = np.arange(maxima)
    pairs = np.empty((maxima - 1, 2), np.int32)
    loop_squares = np.zeros(records.size, np.uint16)
    found = 0
    for rank in range(order.size - 1, -1, -1):
        if not joins[rank]:
            continue
        voxel = order[rank]
        squares = np.int64(critical[squares_of(records[voxel]) << 8 | cubes_of(records[voxel])])
        while squares:
            k = 63 - leading_zeros(squares)
            squares ^= 1 << k
            elder = _root(parent, _number(onward, voxel + cube_index[cubes_of_square[k, 0]]))
            younger = _root(parent, _number(onward, voxel + cube_index[cubes_of_square[k, 1]]))
            if elder == younger:
                loop_squares[voxel] |= 1 << k
                continue
            if death_rank[elder] < death_rank[younger]:
                elder, younger = younger, elder
            parent[younger] = elder
            pairs[found, 0] = voxel
            pairs[found, 1] = order[death_rank[younger]]
            found += 1
    return pairs, loop_squares

"""Persistence pairs of a volume: the order of its voxels, their lower stars, and one algorithm for each dimension."""

from __future__ import annotations

import numpy as np

from ._cubical_components import cavity_pairs, component_pairs
from ._cubical_loops import loop_pairs
from ._cubical_lower_stars import CUBES_OF_SQUARE, grid_of, tables, voxel_records
from ._cubical_ranks import sort_keys, voxels_by_rank
from ._jit import jit


def persistence_pairs(volume: np.ndarray, dimensions: tuple[int, ...]) -> tuple[dict[int, np.ndarray], int]:
    """Pairs (birth voxel, death voxel) of a float32 or float64 volume [D, H, W], without those of zero persistence.

    Returns [n, 2] int64 arrays of flat C-order indices, by dimension, and the voxel of the essential class.
    """
    grid, table = grid_of(volume.shape), tables()
    order = voxels_by_rank(sort_keys(volume), *volume.shape)
    records = voxel_records(order, grid, table.squares_between, table.cubes_between)
    pairs = {}
    if 0 in dimensions:
        pairs[0] = component_pairs(order, records, grid.direction, table.first_edges)
    if 1 in dimensions or 2 in dimensions:
        pairs[2], loop_squares = cavity_pairs(
            order, records, grid.cube_index, table.critical, table.way_out, CUBES_OF_SQUARE
        )
    if 1 in dimensions:
        pairs[1] = loop_pairs(order, records, loop_squares, grid, table)
    values = volume.ravel()
    for k in dimensions:
        pairs[k] = _in_volume(pairs[k], *volume.shape)
        pairs[k] = pairs[k][values[pairs[k][:, 0]] != values[pairs[k][:, 1]]]
    return pairs, int(_voxel(order[0], *volume.shape))


@jit
def _voxel(index, depth, height, width):
    """Flat index in the volume of an index into the grid with its border."""
    plane, x = divmod(index, width + 2)
    z, y = divmod(plane, height + 2)
    return ((z - 1) * height + y - 1) * width + x - 1


@jit
def _in_volume(pairs, depth, height, width):
    moved = np.empty(pairs.shape, np.int64)
    for i in range(len(pairs)):
        for end in range(2):
            moved[i, end] = _voxel(pairs[i, end], depth, height, width)
    return moved

"""Persistence pairs of a volume: the order of its voxels, their lower stars, and one algorithm for each dimension."""

from __future__ import annotations

import numpy as np

from ._cubical_components import cavity_pairs, component_pairs
from ._cubical_loops import loop_pairs
from ._cubical_lower_stars import CUBES_OF_SQUARE, grid_of, tables, voxel_records
from ._cubical_ranks import sort_keys, voxels_by_rank
from ._jit import jit


def persistence_pairs(volume: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Pairs (birth voxel, death voxel) of a float32 or float64 volume [D, H, W], without those of zero persistence.

    Returns three [n, 2] int64 arrays of flat C-order indices, one a dimension, and the voxel of the essential class.
    """
    grid, table = grid_of(volume.shape), tables()
    order = voxels_by_rank(sort_keys(volume), *volume.shape)
    records = voxel_records(order, grid, table.squares_between, table.cubes_between)
    components = component_pairs(order, records, grid.direction, table.first_edges)
    cavities, loop_squares = cavity_pairs(
        order, records, grid.cube_index, table.critical, table.way_out, CUBES_OF_SQUARE
    )
    loops = loop_pairs(order, records, loop_squares, grid, table)
    values = volume.ravel()
    diagrams = [_in_volume(pairs, *volume.shape) for pairs in (components, loops, cavities)]
    diagrams = [pairs[values[pairs[:, 0]] != values[pairs[:, 1]]] for pairs in diagrams]
    return diagrams, int(_voxel(order[0], *volume.shape))


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

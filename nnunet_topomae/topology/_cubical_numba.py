"""Persistence pairs of a volume: the order of its voxels, their lower stars, and one algorithm for each dimension.

The largest arrays are made here, by NumPy, which asks the system for huge pages: outside the main thread, where memory
is fresh at each call, a tenth of the time of 96³ went into small ones.
"""

from __future__ import annotations

import numpy as np

from ._cubical_components import cavity_pairs, component_pairs
from ._cubical_loops import loop_pairs
from ._cubical_lower_stars import BORDER_RECORD, CUBES_OF_SQUARE, grid_of, set_records, tables
from ._cubical_ranks import order_and_rank, sort_bits
from ._jit import jit


def persistence_pairs(volume: np.ndarray, dimensions: tuple[int, ...]) -> tuple[dict[int, np.ndarray], int]:
    """Pairs (birth voxel, death voxel) of a float32 or float64 volume [D, H, W], without those of zero persistence.

    Returns [n, 2] int64 arrays of flat C-order indices, by dimension, and the voxel of the essential class.
    """
    grid, table = grid_of(volume.shape), tables()
    bits = sort_bits(volume)
    order, rank = order_and_rank(bits, *np.empty((2, volume.size), np.int64), *volume.shape)
    records = np.full(grid.size, BORDER_RECORD)
    set_records(records, rank, grid, table.squares_between, table.cubes_between)
    pairs = {}
    if 0 in dimensions or 1 in dimensions:
        pairs[0], joining, loops = component_pairs(order, records, grid.direction, table.first_edges, table.root)
    if 1 in dimensions or 2 in dimensions:
        pairs[2], loop_squares = cavity_pairs(
            order, records, grid.cube_index, table.critical, table.way_out, CUBES_OF_SQUARE
        )
    if 1 in dimensions:
        pairs[1] = loop_pairs(order, records, joining, loops, loop_squares, grid, table)
    position = np.empty([side + 2 for side in volume.shape], np.int32)  # in the volume of each voxel of the grid
    position[1:-1, 1:-1, 1:-1] = np.arange(volume.size, dtype=np.int32).reshape(volume.shape)
    position = position.ravel()
    return {k: _lasting(pairs[k], bits, position) for k in dimensions}, int(position[order[0]])


@jit
def _lasting(pairs, bits, position):
    """The pairs of voxels with different values, as positions in the volume."""
    lasting = np.empty((2, len(pairs)), np.int64)
    count = 0
    for i in range(len(pairs)):
        birth, death = pairs[i]
        if bits[birth] != bits[death]:
            lasting[0, count], lasting[1, count] = position[birth], position[death]
            count += 1
    return lasting[:, :count].T

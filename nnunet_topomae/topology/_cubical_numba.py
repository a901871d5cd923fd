"""Persistence pairs of a volume: the order of its voxels, their lower stars, and one algorithm for each dimension."""

from __future__ import annotations

import numpy as np

from ._cubical_components import cavity_pairs, component_pairs
from ._cubical_loops import loop_pairs
from ._cubical_lower_stars import CUBES_OF_SQUARE, grid_of, set_records, tables
from ._cubical_ranks import sort_bits, sort_voxels
from ._jit import jit


def persistence_pairs(volume: np.ndarray, dimensions: tuple[int, ...]) -> tuple[dict[int, np.ndarray], int]:
    """Pairs (birth voxel, death voxel) of a float32 or float64 volume [D, H, W], without those of zero persistence.

    Returns [n, 2] int64 arrays of flat C-order indices, by dimension, and the voxel of the essential class.
    """
    grid, table = grid_of(volume.shape), tables()
    # One block: from 4 MB on NumPy asks the system for huge pages. At each call outside the main thread memory is
    # fresh, and small pages took a sixth of the time.
    block = np.empty((8, grid.size), np.int32)
    order, rank, items = block[0, : volume.size], block[1], block[2:6].reshape(-1).view(np.int64)
    bits = sort_bits(volume)
    sort_voxels(bits, order, rank, items[: volume.size], items[-volume.size :], *volume.shape)
    records, component, onward = items[: grid.size], block[4], block[5]
    set_records(records, rank, grid, table.squares_between, table.cubes_between)
    pairs = {}
    if 0 in dimensions or 1 in dimensions:
        pairs[0], joining, loops = component_pairs(
            order, records, component, grid.direction, table.first_edges, table.root
        )
    if 1 in dimensions or 2 in dimensions:
        pairs[2], loop_squares = cavity_pairs(
            order, records, onward, grid, table.critical, table.way_out, CUBES_OF_SQUARE
        )
    if 1 in dimensions:
        pool = block[4:].reshape(-1).view(np.int64)
        pairs[1] = loop_pairs(order, records, joining, loops, loop_squares, rank, pool, grid, table)
    position = block[5]  # in the volume of each voxel of the grid
    inside = position.reshape([side + 2 for side in volume.shape])[1:-1, 1:-1, 1:-1]
    inside[:] = np.arange(volume.size, dtype=np.int32).reshape(volume.shape)
    return {k: _lasting(pairs[k], bits, position) for k in dimensions}, int(position[order[0]])


@jit
def _lasting(pairs, bits, position):
    """The pairs of voxels with different values, as positions in the volume."""
    lasting = np.empty((2, len(pairs)), np.int64)
    count = 0
    for i in range(len(pairs)):
        birth, death = pairs[i]
        lasting[0, count], lasting[1, count] = position[birth], position[death]
        count += bits[birth] != bits[death]
    return lasting[:, :count].T

"""GUDHI, which takes long to import: its cubical complex, slow and general, is the reference for our own code."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ._first_use import hold_forks


@hold_forks
def gudhi() -> ModuleType:
    import gudhi

    return gudhi


def persistence_pairs(volume: np.ndarray, dimensions: tuple[int, ...]) -> tuple[dict[int, np.ndarray], int]:
    """Pairs (birth voxel, death voxel) of a [D, H, W] volume, without those of zero persistence.

    Returns [n, 2] int64 arrays of flat C-order indices, by dimension, and the voxel of the essential class.
    """
    complex_ = gudhi().CubicalComplex(vertices=volume.astype(np.float64))
    # Not gudhi's default, 11. The field matters: when the edge of a Moebius strip enters before its middle line, the
    # strip makes the edge's loop twice the middle line's, which is zero mod 2 only.
    complex_.compute_persistence(homology_coeff_field=2, min_persistence=0.0)
    regular, essential = complex_.vertices_of_persistence_pairs()
    # GUDHI numbers voxels in Fortran order, and leaves off the highest dimensions that have no pair.
    to_c_order = np.arange(volume.size).reshape(volume.shape).ravel(order="F")
    empty = np.empty((0, 2), dtype=np.int64)
    pairs = {k: np.asarray(regular[k], dtype=np.int64) if k < len(regular) else empty for k in dimensions}
    return {k: to_c_order[p].reshape(-1, 2) for k, p in pairs.items()}, int(to_c_order[essential[0][0]])

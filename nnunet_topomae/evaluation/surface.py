"""Distances in mm between the surfaces of two masks, and the measures taken from them.

Two notions of a surface, each that of the tables it is compared with:

- The Hausdorff and mean distances look at *voxels*: those of the mask with a face neighbour outside it, all of one
  weight (MONAI, MedPy, Metrics Reloaded).
- The normalised surface Dice (NSD) looks at *surfels*, pieces of the surface between voxel centres, weighted by their
  area in mm² (Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", 2021, and its package
  surface-distance; Medical Segmentation Decathlon). Counting voxels instead gives thick slices too much weight.

What lies outside the image is background. Where the reference says "ignore", nothing is known: no voxel is surface for
a neighbour there, and no surfel touches it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree
from skimage.measure import marching_cubes, mesh_surface_area

# Spacings are 32-bit numbers in most files: five voxels of 0.4 mm are 2.00000003 mm and within 2 mm all the same.
ROUNDING_MM = 1e-5


class Surface(NamedTuple):
    """Points of a surface.

    Attributes:
        points: [n, axes] in mm, from a corner that all surfaces of an image share.
        areas: [n], mm² (mm in two dimensions); 1 for voxels.
    """

    points: np.ndarray
    areas: np.ndarray


class SurfaceDistances(NamedTuple):
    """Distance in mm from each point of one surface to the nearest of the other, in both directions.

    Attributes:
        from_a, from_b: [n], [m] distances.
        areas_a, areas_b: [n], [m] weights of the points.
    """

    from_a: np.ndarray
    from_b: np.ndarray
    areas_a: np.ndarray
    areas_b: np.ndarray

    @classmethod
    def between(cls, a: Surface, b: Surface) -> SurfaceDistances:
        """Of two surfaces that have points."""
        from_a, _ = KDTree(b.points).query(a.points)
        from_b, _ = KDTree(a.points).query(b.points)
        return cls(from_a, from_b, a.areas, b.areas)

    def hausdorff(self, percentile: float = 100) -> float:
        """The larger of the two directed percentiles."""
        return float(max(np.percentile(self.from_a, percentile), np.percentile(self.from_b, percentile)))

    def pooled_percentile(self, percentile: float) -> float:
        """Percentile of the distances of both directions together, as MedPy takes it."""
        return float(np.percentile(np.concatenate([self.from_a, self.from_b]), percentile))

    def mean(self) -> float:
        """Average symmetric surface distance: the mean of the distances of both directions together."""
        return float(np.concatenate([self.from_a, self.from_b]).mean())

    def share_within(self, tolerance: float) -> float:
        """Normalised surface Dice: the share of both surfaces' area that lies within `tolerance` mm of the other."""
        limit = tolerance + ROUNDING_MM
        within = self.areas_a[self.from_a <= limit].sum() + self.areas_b[self.from_b <= limit].sum()
        return float(within / (self.areas_a.sum() + self.areas_b.sum()))


def surface_voxels(mask: np.ndarray, spacing: Sequence[float], known: np.ndarray | None = None) -> Surface:
    """Voxels of a mask with a face neighbour outside it.

    Args:
        mask: [D, H, W] or [H, W], boolean.
        spacing: mm of each axis.
        known: boolean, False where the reference says "ignore"; the mask must be False there.
    """
    padded = np.pad(mask, 1)
    outside = ~padded if known is None else ~padded & np.pad(known, 1, constant_values=True)
    inner = (slice(1, -1),) * mask.ndim
    exposed = np.zeros_like(mask)
    for axis, shifted in product(range(mask.ndim), (slice(None, -2), slice(2, None))):
        neighbours = (*inner[:axis], shifted, *inner[axis + 1 :])
        exposed |= outside[neighbours]
    points = np.argwhere(mask & exposed) * np.asarray(spacing, float)
    return Surface(points, np.ones(len(points)))


def surfels(mask: np.ndarray, spacing: Sequence[float], known: np.ndarray | None = None) -> Surface:
    """The surface inside of each block of 2×2×2 (2×2) neighbouring voxels; a point stands in the middle of its block.

    Arguments as of `surface_voxels`.
    """
    codes = _block_codes(mask)
    surface = (codes > 0) & (codes < 2 ** (2**mask.ndim) - 1)
    if known is not None:
        surface &= _block_codes(~known) == 0
    areas = _area_by_code(tuple(map(float, spacing)))[codes[surface]]
    return Surface(np.argwhere(surface) * np.asarray(spacing, float), areas)


def _block_codes(mask: np.ndarray) -> np.ndarray:
    """For each block of neighbours, padding included, a number whose bits say which of them are in the mask."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([side + 1 for side in mask.shape], np.uint8)
    for bit, corner in enumerate(product((slice(None, -1), slice(1, None)), repeat=mask.ndim)):
        codes |= padded[corner] << bit
    return codes


@lru_cache(maxsize=64)
def _area_by_code(spacing: tuple[float, ...]) -> np.ndarray:
    """Area (length in two dimensions) of the surface in a block of voxels, by the block's code.

    In three dimensions that of marching cubes (Lorensen and Cline, 1987), a block and its complement having the same.
    """
    corners = 2 ** len(spacing)
    areas = np.zeros(2**corners)
    for code in range(1, len(areas) - 1):
        fewer = code if code.bit_count() <= corners // 2 else len(areas) - 1 - code
        block = np.array([fewer >> bit & 1 for bit in range(corners)], float).reshape([2] * len(spacing))
        areas[code] = _area(block, spacing) if len(spacing) == 3 else _length(block, spacing)
    return areas


def _area(block: np.ndarray, spacing: tuple[float, ...]) -> float:
    vertices, faces, *_ = marching_cubes(block, 0.5, method="lorensen")
    return mesh_surface_area(vertices.astype(float) * spacing, faces)


def _length(block: np.ndarray, spacing: tuple[float, ...]) -> float:
    """One corner, or two at a side or across, are cut off from the rest."""
    if block.sum() == 1 or block[0, 0] == block[1, 1]:
        return float(block.sum()) * math.hypot(*spacing) / 2
    return spacing[1] if block[0, 0] == block[0, 1] else spacing[0]

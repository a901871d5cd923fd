"""Overlap of centrelines, for tubes: Shit et al., "clDice: a topology-preserving loss function for tubular structure
segmentation" (CVPR 2021)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import generate_binary_structure, label
from skimage.morphology import skeletonize


def cl_dice(a: np.ndarray, b: np.ndarray) -> float:
    """Harmonic mean of the shares of each mask's skeleton that lie in the other mask; 0 where one of both is empty.

    Skeletons are scikit-image's (in 3D by Lee et al., 1994), of voxels whatever their spacing, as in the authors' code:
    each voxel of a skeleton counts the same, so that a centimetre along a thick axis counts less than across it.

    Args:
        a, b: [D, H, W] or [H, W], boolean.
    """
    precision, sensitivity = (_share_within(skeleton(one), other) for one, other in ((a, b), (b, a)))
    return 2 * precision * sensitivity / (precision + sensitivity) if precision and sensitivity else 0.0


def skeleton(mask: np.ndarray) -> np.ndarray:
    """Thinned to lines. A component of which scikit-image leaves nothing (issue 3757: even sides) is left whole."""
    thin: np.ndarray = skeletonize(mask)
    components, _ = label(mask, generate_binary_structure(mask.ndim, mask.ndim))
    return thin | (mask & ~np.isin(components, components[thin]))


def _share_within(points: np.ndarray, mask: np.ndarray) -> float:
    return int(np.count_nonzero(points & mask)) / max(int(np.count_nonzero(points)), 1)

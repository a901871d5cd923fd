from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nnunet_topomae.evaluation.centreline import cl_dice, skeleton


def tube(length: int = 40, y: int = 3, side: int = 5) -> np.ndarray:
    mask = np.zeros((11, 12, 44), bool)
    mask[3 : 3 + side, y : y + side, 2 : 2 + length] = True
    return mask


def test_what_is_thin_is_not_outweighed_by_what_is_thick() -> None:
    """A missing branch of one voxel's width counts by its length, as the tube it leaves does."""
    branched = tube()
    branched[5, 8:, 20] = True
    dice = 2 * np.count_nonzero(tube()) / (np.count_nonzero(tube()) + np.count_nonzero(branched))
    assert cl_dice(branched, branched) == 1 and dice > 0.99
    line = np.count_nonzero(skeleton(branched))
    assert cl_dice(tube(), branched) == pytest.approx(2 * (line - 4) / line / (1 + (line - 4) / line))


def test_half_a_tube_has_all_of_its_skeleton_inside_and_half_of_the_others() -> None:
    assert cl_dice(tube(20), tube()) == cl_dice(tube(), tube(20)) == pytest.approx(2 / 3, abs=0.03)


def test_tubes_that_miss_each_others_centreline_have_none() -> None:
    assert cl_dice(tube(), tube(y=7)) == 0 < np.count_nonzero(tube() & tube(y=7))


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_every_component_has_a_skeleton(side: int) -> None:
    """scikit-image erases a bar of an even side."""
    mask = tube(side=side) | ndimage.shift(tube(3).astype(float), (0, 0, 38), order=0).astype(bool)
    components, count = ndimage.label(mask)
    assert len(np.unique(components[skeleton(mask)])) == count
    assert cl_dice(mask, mask) == 1

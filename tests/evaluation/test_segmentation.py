import math

import numpy as np
import pytest
from skimage.metrics import hausdorff_distance as hausdorff_of_scikit_image

from nnunet_topomae.evaluation.segmentation import dice, hausdorff_distance, segmentation_metrics


def box(shape, corner, size) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


def test_a_shifted_box_is_as_far_as_it_was_shifted_in_mm():
    a, b = box((12, 12, 12), (2, 3, 4), (4, 4, 4)), box((12, 12, 12), (4, 3, 4), (4, 4, 4))
    assert dice(a, b) == 0.5
    assert hausdorff_distance(a, b, (3.0, 1.0, 1.0)) == 6.0


def test_hausdorff_distance_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = (rng.random((7, 8, 9)) < 0.1 for _ in range(2))  # so sparse that nearly all voxels are surface
        assert hausdorff_distance(a, b, (1, 1, 1)) == pytest.approx(hausdorff_of_scikit_image(a, b))


def test_the_95th_percentile_forgives_a_stray_voxel():
    a = box((40, 20, 20), (2, 2, 2), (10, 10, 10))
    b = a.copy()
    b[39, 19, 19] = True
    assert hausdorff_distance(a, b, (1, 1, 1), 95) == 0 and hausdorff_distance(a, b, (1, 1, 1)) > 25


def test_empty_masks():
    empty, full = np.zeros((3, 4, 12), bool), np.ones((3, 4, 12), bool)
    assert math.isnan(dice(empty, empty)) and math.isnan(hausdorff_distance(empty, empty, (1, 1, 1)))
    assert dice(empty, full) == 0 and hausdorff_distance(empty, full, (1, 1, 1)) == 13  # 3, 4, 12, 13


def test_metrics_of_labels_and_regions():
    reference = np.zeros((10, 10, 10), int)
    reference[2:6, 2:6, 2:6] = 1
    reference[6:9, 2:6, 2:6] = 2
    prediction = reference.copy()
    prediction[0, 0, 0] = 2  # one component too many
    metrics = segmentation_metrics(prediction, reference, [1, 2, (1, 2)], (1, 1, 1))
    assert metrics[1] == (1.0, 0.0, 0)
    assert metrics[2].betti_error == metrics[1, 2].betti_error == 1
    assert metrics[2].dice == pytest.approx(2 * 48 / 97)

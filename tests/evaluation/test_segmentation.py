from __future__ import annotations

import math

import numpy as np
import pytest

from nnunet_topomae.evaluation.segmentation import MEASURES, ON_DEMAND, segmentation_metrics


def label_map(shape=(12, 14, 16), **boxes: tuple[slice, ...]) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for name, box in boxes.items():
        labels[box] = int(name.removeprefix("label_"))
    return labels


CUBE = (slice(2, 6),) * 3
BESIDE = (slice(6, 9), slice(2, 6), slice(2, 6))


def test_labels_and_regions():
    reference = label_map(label_1=CUBE, label_2=BESIDE)
    prediction = reference.copy()
    prediction[0, 0, 0] = 2  # one component too many
    metrics = segmentation_metrics(prediction, reference, [1, 2, [1, 2]], (1, 1, 1))
    assert metrics[1]["Dice"] == metrics[1]["NSD_1mm"] == 1
    assert metrics[1]["HD95"] == metrics[1]["ASSD"] == metrics[1]["volume_error"] == metrics[1]["betti_error"] == 0
    assert metrics[2]["betti_error"] == metrics[1, 2]["betti_error"] == 1
    assert metrics[2]["Dice"] == pytest.approx(2 * 48 / 97)
    assert metrics[1, 2]["n_ref"] == 64 + 48 and metrics[1, 2]["FP"] == 1


def test_volumes_and_distances_are_in_mm():
    reference, prediction = label_map(label_1=CUBE), label_map(label_1=(slice(2, 7), slice(2, 6), slice(2, 6)))
    metrics = segmentation_metrics(prediction, reference, [1], (3.0, 2.0, 0.5))[1]
    assert metrics["volume_error"] == 16 * 3
    assert metrics["HD95"] == 3 and metrics["HD95_pooled"] == 3
    assert 0 < metrics["ASSD"] < 3


def test_empty_masks():
    empty, full = np.zeros((3, 4, 12), np.uint8), np.ones((3, 4, 12), np.uint8)
    both = segmentation_metrics(empty, empty, [1, 7], (1, 1, 1), on_demand=ON_DEMAND)
    assert all(math.isnan(both[label][measure]) for label in (1, 7) for measure in MEASURES)
    for unknown in ([5, 6], 300):  # never perfect
        (metrics,) = segmentation_metrics(full, full, [unknown], (1, 1, 1), on_demand=ON_DEMAND).values()
        assert all(math.isnan(metrics[measure]) for measure in MEASURES)
    for pair in ((empty, full), (full, empty)):
        one = segmentation_metrics(*pair, [1], (1, 1, 1), on_demand=ON_DEMAND)[1]
        assert one["Dice"] == one["NSD_1mm"] == one["NSD_2mm"] == one["clDice"] == 0
        assert one["HD95"] == one["HD95_pooled"] == one["ASSD"] == 13  # 3, 4, 12, 13
        assert one["volume_error"] == 144 and one["betti_error"] == one["betti_matching_error"] == 1


def test_what_is_predicted_where_the_reference_says_ignore_counts_for_nothing():
    reference = label_map(label_1=CUBE, label_9=(slice(4, 12),))
    rng = np.random.default_rng(0)
    predictions = [reference.copy() for _ in range(3)]
    for prediction in predictions:
        prediction[4:] = rng.integers(0, 2, prediction[4:].shape)
    first, *others = (segmentation_metrics(p, reference, [1], (2, 1, 1), ignore_label=9)[1] for p in predictions)
    assert first["Dice"] == first["NSD_1mm"] == 1 and first["HD95"] == first["betti_error"] == 0
    assert first["n_ref"] == 32 and first["TP"] + first["TN"] == 4 * 14 * 16
    assert all(other == first for other in others)
    missed = segmentation_metrics(np.zeros_like(reference), reference, [1], (2, 1, 1), ignore_label=9)[1]
    assert missed["Dice"] == 0 and missed["volume_error"] == 64


def test_as_many_components_at_other_places_are_told_on_demand():
    """A piece of a tube that lies elsewhere: the Betti error does not see it."""
    tube = label_map((9, 9, 30), label_1=(slice(3, 6), slice(3, 6), slice(2, 14)))
    reference, prediction = tube.copy(), tube.copy()
    reference[1:2, 1:2, 20:28] = prediction[7:8, 7:8, 20:28] = 1
    metrics = segmentation_metrics(prediction, reference, [1], (1, 1, 1), on_demand=["betti_matching_error"])[1]
    assert metrics["betti_error"] == 0 and metrics["betti_matching_error"] == 2 and "clDice" not in metrics


def test_sparse_annotation_has_distances_in_its_slices_and_no_surfels():
    reference, prediction = label_map(label_1=CUBE), label_map(label_1=(slice(2, 6), slice(2, 6), slice(3, 7)))
    reference[1::2] = 9
    metrics = segmentation_metrics(prediction, reference, [1], (5, 1, 1), ignore_label=9)[1]
    assert metrics["HD95"] == 1 and metrics["Dice"] == 0.75
    assert math.isnan(metrics["NSD_1mm"])


def test_a_slice_is_measured_in_its_plane():
    reference, prediction = np.zeros((1, 20, 20), np.uint8), np.zeros((1, 20, 20), np.uint8)
    reference[0, 5:15, 5:15] = 1
    prediction[0, 5:15, 7:17] = 1
    spatial = segmentation_metrics(prediction, reference, [1], (999, 1, 0.5), on_demand=ON_DEMAND)[1]
    assert spatial["HD95"] == 1 and spatial["volume_error"] == spatial["betti_error"] == 0
    assert spatial == segmentation_metrics(prediction[0], reference[0], [1], (1, 0.5), on_demand=ON_DEMAND)[1]
    prediction[0, 9:11, 9] = 0  # a hole
    holed = segmentation_metrics(prediction, reference, [1], (999, 1, 0.5), on_demand=ON_DEMAND)[1]
    assert holed["betti_error"] == holed["betti_matching_error"] == 1
    nothing = segmentation_metrics(np.zeros_like(reference), reference, [1], (999, 3 / 20, 4 / 20))[1]
    assert nothing["HD95"] == pytest.approx(5)  # the diagonal of the plane


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        segmentation_metrics(np.zeros((3, 4, 5), int), np.zeros((3, 4, 6), int), [1], (1, 1, 1))

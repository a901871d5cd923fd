"""What the page shows of volumes: crops over epochs, diagrams, segmented cases."""

import gudhi
import gudhi.wasserstein
import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image

from nnunet_topomae.report.reconstructions import (
    MAX_EPOCHS,
    matched_diagrams,
    reconstructed_cases,
    reconstruction_figure,
)
from nnunet_topomae.report.runs import read_runs
from nnunet_topomae.report.segmentations import (
    case_figure,
    errors_of,
    read_case,
    read_volume,
    segmented_cases,
    worst_slices,
)

from .conftest import CASES, panel


def test_runs_that_saw_the_same_crop_stand_beside_each_other(results):
    results.pretraining(epochs=(1, 4))
    results.pretraining(epochs=(1, 2), offset=9.0, fold=1)
    ((name, crop),) = reconstructed_cases(read_runs([results.dataset]))
    assert name == CASES[2] and [run.letter for run, _ in crop] == ["A0", "A1"]
    figure = reconstruction_figure(crop)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ["input, H × W", "50% hidden", "epoch 1, MSE 1", "epoch 4, MSE 0.25"] and len(titles) == 16
    last = np.asarray(figure.axes[11].images[0].get_array())  # of the second run's ViT
    assert np.array_equal(last, panel(CASES[2], 2, 9.0).completed["vit"][4])
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["A0, ViT", "A0, partner", "A1, ViT", "A1, partner"]


def test_many_epochs_are_thinned_to_first_last_and_some_between(results):
    results.pretraining(epochs=tuple(range(1, 31)))
    ((_, [(_, panels)]),) = reconstructed_cases(read_runs([results.dataset]))
    assert len(panels) == MAX_EPOCHS and panels[0].epoch == 1 and panels[-1].epoch == 30


def test_diagrams_are_matched_as_gudhi_matches_them():
    one = panel("a", 1)
    for dimension, (true, made, result) in enumerate(matched_diagrams(one, "vit")):
        diagrams = []
        for volume in (one.image, one.completed["vit"]):
            values = -1 + volume * np.float32(3 / 255)
            complex_ = gudhi.CubicalComplex(vertices=values.astype(np.float64))
            complex_.compute_persistence()
            diagrams.append(complex_.persistence_intervals_in_dimension(dimension))
            diagrams[-1] = diagrams[-1][np.isfinite(diagrams[-1]).all(axis=1)].reshape(-1, 2)
        expected = gudhi.wasserstein.wasserstein_distance(*diagrams, order=2.0, internal_p=2.0) ** 2
        assert result.cost == pytest.approx(expected, rel=0.011, abs=1e-9)
        assert [len(true.birth), len(made.birth)] == [len(diagram) for diagram in diagrams]


def test_a_segmented_case_is_shown_in_its_worst_slice_with_labels_and_errors(results):
    results.segmentation(shift=2)
    first, *_, last = segmented_cases(read_runs([results.dataset]))
    assert first.name.startswith('case "3"') and first.worst < last.worst == 1
    volumes = read_case(first)
    prediction, reference = volumes["A"].voxels, volumes["reference"].voxels
    wrong = errors_of(prediction, reference, None)
    assert np.array_equal(wrong > 0, prediction != reference)
    figure = case_figure(first)
    assert [axes.get_title() for axes in figure.axes][::3] == [
        "image, axial", "reference, axial", "prediction, axial", "errors, axial"
    ]  # fmt: skip
    shown = figure.axes[9].images[1].get_array()[..., 3] > 0
    assert shown.sum() == (wrong > 0).sum(axis=(1, 2)).max() > 0
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["liver", "tumour <b>&", "missed", "invented", "another class"]


def test_what_is_wrong_is_told_apart_and_ignored_voxels_are_not_judged():
    reference, labels = np.array([[0, 0, 1, 1, 1, 9]]), np.array([[0, 1, 0, 1, 2, 1]])
    assert errors_of(labels, reference, 9).tolist() == [[0, 2, 1, 0, 3, 0]]
    assert errors_of(labels, reference, None)[0, -1] == 3


def test_slices_are_those_with_most_errors_or_the_middle_ones():
    wrong = np.zeros((5, 6, 7), bool)
    assert worst_slices(wrong) == [2, 3, 3]
    wrong[1, 2:4, 6] = True
    assert worst_slices(wrong)[::2] == [1, 6]


def test_a_damaged_prediction_is_not_shown(results):
    folder = results.segmentation(shift=2)
    for file in (folder / "validation").glob("*.nii.gz"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="validation.* is cut off"):
        read_case(segmented_cases(read_runs([results.dataset]))[0])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRP", "AIL"])
def test_every_way_to_store_a_body_is_shown_alike(tmp_path, codes):
    """A body in RAS, [x, y, z], with marks at its right (1), anterior (2) and superior (3) ends."""
    body = np.zeros((5, 6, 7), np.uint8)
    body[-1, 3, 3], body[2, -1, 3], body[2, 3, -1] = 1, 2, 3
    image = nibabel.Nifti1Image(body, np.diag([2.0, 1.0, 3.0, 1.0]))
    ras, to = (nibabel.orientations.axcodes2ornt(tuple(order)) for order in ("RAS", codes))
    nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform(ras, to)), tmp_path / "a.nii.gz")
    shown, spacing, planes = read_volume(tmp_path / "a.nii.gz", SimpleITKIO)
    assert tuple(planes) == ("axial", "coronal", "sagittal") and spacing == pytest.approx([3, 1, 2])
    # Rows run from superior or anterior downwards, columns from the patient's right (or anterior) rightwards.
    assert [np.argwhere(shown == mark).tolist() for mark in (1, 2, 3)] == [[[3, 2, 0]], [[3, 0, 2]], [[0, 2, 2]]]


def test_pictures_are_shown_as_stored(tmp_path):
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).save(tmp_path / "a.png")
    shown, _, planes = read_volume(tmp_path / "a.png", NaturalImage2DIO)
    assert shown.tolist() == [np.arange(20).reshape(4, 5).tolist()] and planes == ["H × W", "D × W", "D × H"]

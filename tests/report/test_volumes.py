"""What the page shows of volumes: mosaics, crops over epochs, points, diagrams, segmented cases."""

import base64
import io

import gudhi
import gudhi.wasserstein
import numpy as np
import pytest
from PIL import Image

from nnunet_topomae.report.diagrams import matched_diagrams
from nnunet_topomae.report.mosaic import GREYS, as_bytes, mosaic, mosaic_columns
from nnunet_topomae.report.points import points_figure
from nnunet_topomae.report.reconstructions import MAX_EPOCHS, reconstructed_cases, reconstruction_viewer
from nnunet_topomae.report.runs import read_runs
from nnunet_topomae.report.segmentations import MAX_VOXELS, case_viewer, segmented_cases
from nnunet_topomae.report.segmentations import _thinning as thinning

from .conftest import CASES, SPACING, panel


def volume_of(uri: str, shape: tuple[int, int, int]) -> np.ndarray:
    """What `decode` of page.js does."""
    grid = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    depth, height, width = shape
    columns = mosaic_columns(shape)
    return np.stack([grid[d // columns * height :, d % columns * width :][:height, :width] for d in range(depth)])


@pytest.mark.parametrize("shape", [(1, 5, 7), (13, 5, 7), (64, 3, 90), (100, 200, 10)])
def test_a_mosaic_holds_every_voxel_and_is_near_a_square(shape):
    volume = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(volume_of(mosaic(volume), shape), volume)
    columns = mosaic_columns(shape)
    assert max(columns * shape[2], -(-shape[0] // columns) * shape[1]) <= 3 * np.sqrt(np.prod(shape)) + max(shape)


def test_bytes_span_the_window_in_so_many_steps():
    assert as_bytes(np.array([-5.0, 0.0, 2 / 3, 2.0, 9.0]), (0, 2)).tolist() == [0, 0, 85, 255, 255]
    assert len(np.unique(as_bytes(np.linspace(0, 1, 1000), (0, 1)))) == GREYS


def test_runs_that_saw_the_same_crop_stand_beside_each_other(results):
    results.pretraining(epochs=(1, 4))
    second = results.pretraining(epochs=(1, 2), offset=9.0, fold=1)
    runs = read_runs([results.dataset])
    (case,) = reconstructed_cases(runs)
    assert case.name == CASES[2] and [run.letter for run in case.runs] == ["A0", "A1"] and case.epochs == [1, 2, 4]
    assert case.at("A0", 2).epoch == 1 and case.at("A1", 4).epoch == 2
    viewer = reconstruction_viewer(case)
    assert [panel["title"] for panel in viewer.panels[2:]] == [
        f"{run.name}, {network}" for run in runs for network in ("ViT", "partner")
    ]
    shown = volume_of(viewer.mosaics["A1/vit/2"], viewer.shape)
    truth = panel(CASES[2], 2, 9.0)
    assert np.abs(shown.astype(int) - truth.completed["vit"])[truth.mask].max() <= 2  # 64 greys
    assert not shown[~truth.mask].any()
    assert second.name == "fold_1"


def test_many_epochs_are_thinned_to_first_last_and_some_between(results):
    results.pretraining(epochs=tuple(range(1, 31)))
    (case,) = reconstructed_cases(read_runs([results.dataset]))
    assert len(case.epochs) == MAX_EPOCHS and case.epochs[0] == 1 and case.epochs[-1] == 30


def test_points_lie_where_they_are_predicted():
    figure = points_figure([panel("a", 1), panel("a", 2)])
    assert list(figure.predicted) == [1, 2] and len(figure.true) == 9
    assert figure.predicted[1]["partner"] == figure.true != figure.predicted[1]["vit"]  # the partner is perfect
    away = np.linalg.norm(0.1 / 2 * np.array([20, 20, 20]) * SPACING)
    assert figure.errors == pytest.approx({"vit": away, "partner": 0.0}, rel=1e-4)


def test_points_of_a_network_that_has_diverged_are_left_out():
    ill = panel("a", 1)
    ill.predicted_points["vit"][:] = np.nan
    figure = points_figure([ill])
    assert list(figure.predicted[1]) == ["partner"] and np.isnan(figure.errors["vit"]) and min(figure.box) > 0


def test_diagrams_are_matched_as_gudhi_matches_them():
    one = panel("a", 1)
    for dimension, compared in enumerate(matched_diagrams(one, "vit", "a")):
        diagrams = []
        for volume in (one.image, one.completed["vit"]):
            values = -1 + volume * np.float32(3 / 255)
            complex_ = gudhi.CubicalComplex(vertices=values.astype(np.float64))
            complex_.compute_persistence()
            diagrams.append(complex_.persistence_intervals_in_dimension(dimension))
            diagrams[-1] = diagrams[-1][np.isfinite(diagrams[-1]).all(axis=1)].reshape(-1, 2)
        expected = gudhi.wasserstein.wasserstein_distance(*diagrams, order=2.0, internal_p=2.0) ** 2
        assert compared.squared_distance == pytest.approx(expected, rel=0.011, abs=1e-9)
        assert compared.classes == tuple(map(len, diagrams))
        assert str(compared.figure).startswith("<svg") and "W2²" in str(compared.figure)


def test_a_segmented_case_opens_at_its_worst_slice_and_names_its_dice(results):
    results.segmentation(shift=2)
    first, *_, last = segmented_cases(read_runs([results.dataset]))
    assert first.name.startswith('case "3"') and first.worst < last.worst == 1
    viewer = case_viewer(first)
    reference, prediction = (volume_of(viewer.mosaics[name], viewer.shape) for name in ("reference", "A"))
    wrong = (reference != prediction).sum(axis=(1, 2))
    assert viewer.data["start"][0] == np.argmax(wrong) and wrong.max() > 0
    assert viewer.names == {1: "liver", 2: "tumour <b>&"}
    assert viewer.panels[-1]["note"] == f"Dice: liver {first.metrics['A']['liver']['Dice']:.3f}, tumour <b>& 0.000"
    assert case_viewer(last).data["start"] == [side // 2 for side in case_viewer(last).shape]  # no error anywhere


def test_a_damaged_prediction_is_not_shown(results):
    folder = results.segmentation(shift=2)
    for file in (folder / "validation").glob("*.nii.gz"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="validation.* is cut off"):
        case_viewer(segmented_cases(read_runs([results.dataset]))[0])


def test_large_cases_are_thinned_where_they_are_finest():
    box = (slice(0, 90), slice(0, 512), slice(0, 512))
    step = thinning(box, (5.0, 0.7, 0.7))
    assert step[0] == 1 and min(step[1:]) > 1 and abs(step[1] - step[2]) <= 1
    assert np.prod([-(-90 // step[0]), -(-512 // step[1]), -(-512 // step[2])]) <= MAX_VOXELS

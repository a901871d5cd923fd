"""Whole folders, beside nnUNetv2_evaluate_folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation import evaluate_predictions as of_nnunet

from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.evaluation.folder import evaluate_folder
from nnunet_topomae.evaluation.pairs import pair_files
from nnunet_topomae.evaluation.segmentation import MEASURES

SPACING = (0.8, 0.7, 2.5)  # x, y, z
LABELS = {"background": 0, "liver": 1, "spleen": 2, "cyst": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "cyst": 3}
KINDS = {
    "labels": {"labels": LABELS},
    "regions": {"labels": REGIONS, "regions_class_order": [1, 2, 3]},
    "ignore": {"labels": LABELS | {"ignore": 4}},
    "regions and ignore": {"labels": REGIONS | {"ignore": 4}, "regions_class_order": [1, 2, 3]},
}


def write(file: Path, labels: np.ndarray, spacing=SPACING) -> None:
    file.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes four cases of random blobs: the last one without label 3 and, if wanted, with voxels to ignore."""

    def make(ignore: bool = False) -> tuple[Path, Path]:
        rng = np.random.default_rng(0)
        for case in range(4):
            coarse = rng.integers(0, 4, (3, 4, 4)).astype(np.uint8)
            reference = coarse.repeat(4, 0).repeat(5, 1).repeat(5, 2)
            prediction = np.where(rng.random(reference.shape) < 0.1, rng.integers(0, 4, reference.shape), reference)
            if case == 3:
                reference[reference == 3] = 0
            if ignore:
                reference[:, 3:9] = 4
            write(tmp_path / "labelsTs" / f"case[{case}].nii.gz", reference)
            write(tmp_path / "predictions" / f"case[{case}].nii.gz", prediction.astype(np.uint8))
        return tmp_path / "labelsTs", tmp_path / "predictions"

    return make


def measure(references: Path, predictions: Path, description: dict, **options) -> dict:
    description = {"file_ending": ".nii.gz"} | description
    return evaluate_folder(pair_files(references, predictions, description), Classes.of_dataset(description), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_nnunet_has_is_nnunets_to_the_last_digit(kind, folders, tmp_path, monkeypatch):
    references, predictions = folders(ignore="ignore" in kind)
    description = {"file_ending": ".nii.gz", "channel_names": {"0": "CT"}, "numTraining": 4} | KINDS[kind]
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (tmp_path / "plans.json").write_text(json.dumps({"label_manager": "LabelManager"}))
    threads = SimpleNamespace(Pool=ThreadPool)  # a process takes ten seconds to import nnU-Net
    monkeypatch.setattr(of_nnunet.multiprocessing, "get_context", lambda method: threads)
    of_nnunet.compute_metrics_on_folder2(
        *map(str, (references, predictions, tmp_path / "dataset.json", tmp_path / "plans.json")), num_processes=1
    )
    theirs = json.loads((predictions / "summary.json").read_text())
    ours = json.loads(json.dumps(measure(references, predictions, description)))

    assert set(ours["mean"]) == set(theirs["mean"])
    for case, expected in zip(ours["metric_per_case"], theirs["metric_per_case"], strict=True):
        assert case["prediction_file"] == expected["prediction_file"]
        for label, values in expected["metrics"].items():
            assert_same(case["metrics"][label], values)
    for label, values in theirs["mean"].items():
        assert_same(ours["mean"][label], values)
    assert_same(ours["foreground_mean"], theirs["foreground_mean"])


def assert_same(ours: dict, theirs: dict) -> None:
    for name, value in theirs.items():
        assert ours[name] == value or (math.isnan(ours[name]) and math.isnan(value)), name


def test_nnunet_reads_the_file(folders, tmp_path):
    summary = measure(*folders(), KINDS["regions"])
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    read = of_nnunet.load_summary_json(str(tmp_path / "summary.json"))
    assert set(read["mean"]) == {(1, 2, 3), (2, 3), 3}


def test_several_processes_give_the_same(folders):
    folders = folders()
    assert str(measure(*folders, KINDS["labels"], num_processes=2)) == str(measure(*folders, KINDS["labels"]))


def test_a_class_that_is_nowhere_leaves_the_foreground_mean(folders):
    """nnU-Net's turns NaN."""
    labels = LABELS | {"nowhere": 4}
    summary = measure(*folders(), {"labels": labels})
    with_it, without = summary["foreground_mean"], measure(*folders(), {"labels": LABELS})["foreground_mean"]
    assert math.isnan(summary["mean"]["4"]["Dice"]) and summary["mean"]["4"]["both_empty"] == 4
    assert all(with_it[name] == without[name] for name in MEASURES)
    assert with_it["both_empty"] == without["both_empty"] + 4


def test_empty_masks_are_counted(tmp_path):
    empty, full = np.zeros((4, 5, 6), np.uint8), np.ones((4, 5, 6), np.uint8)
    for case, (reference, prediction) in enumerate([(empty, empty), (full, empty), (full, empty), (empty, full)]):
        write(tmp_path / "gt" / f"{case}.nii.gz", reference)
        write(tmp_path / "predicted" / f"{case}.nii.gz", prediction)
    summary = measure(tmp_path / "gt", tmp_path / "predicted", {"labels": {"background": 0, "organ": 1}})
    for mean in (summary["mean"]["1"], summary["foreground_mean"]):
        assert (mean["both_empty"], mean["missed"], mean["invented"]) == (1, 2, 1)
        assert mean["Dice"] == 0 and mean["HD95"] == pytest.approx(math.hypot(4 * 2.5, 5 * 0.7, 6 * 0.8))


def test_the_file_says_what_its_numbers_mean(folders):
    meanings = measure(*folders(), KINDS["labels"])["definitions"]
    assert set(meanings) == set(MEASURES)
    assert meanings["HD95"]["unit"] == "mm" and meanings["volume_error"]["unit"] == "mm³"
    assert "larger of the two directed" in meanings["HD95"]["definition"]
    assert "both directions together" in meanings["HD95_pooled"]["definition"]
    assert "by area" in meanings["NSD_1mm"]["definition"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "holds the label 7, which dataset.json does not list"),
        (1.5, "holds 1.5: labels are whole"),
        (-1, "holds -1"),
    ],
)
def test_what_is_no_label_is_refused_by_file(folders, value, message):
    references, predictions = folders()
    strange = np.zeros((12, 20, 20), np.float32)
    strange[3, 3, 3] = value
    for file in (references / "case[2].nii.gz", predictions / "case[2].nii.gz"):
        before = file.read_bytes()
        write(file, strange)
        with pytest.raises(ValueError, match=message) as error:
            measure(references, predictions, KINDS["labels"])
        assert str(file) in str(error.value)
        file.write_bytes(before)

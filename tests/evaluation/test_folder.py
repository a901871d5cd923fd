"""Whole folders, beside nnUNetv2_evaluate_folder."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation import evaluate_predictions as of_nnunet
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.postprocessing.remove_connected_components import load_postprocess_save
from nnunetv2.postprocessing.remove_connected_components import (
    remove_all_but_largest_component_from_segmentation as keep_largest,
)

from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.evaluation.folder import evaluate_folder, evaluate_folders
from nnunet_topomae.evaluation.pairs import pair_files
from nnunet_topomae.evaluation.results import heading
from nnunet_topomae.evaluation.segmentation import MEASURES, ON_DEMAND, chosen_measures

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
    summary = measure(*folders(), KINDS["regions"], on_demand=ON_DEMAND, largest_component=[(2, 3)])
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    read = of_nnunet.load_summary_json(str(tmp_path / "summary.json"))
    assert set(read["mean"]) == {(1, 2, 3), (2, 3), 3}


@pytest.mark.parametrize(
    ("kind", "kept_of"), [("labels", ["liver", "cyst"]), ("regions", ["core", "1,3"]), ("ignore", [])]
)
def test_the_largest_component_is_measured_as_what_nnunets_post_processing_writes(kind, kept_of, folders, tmp_path):
    references, predictions = folders(ignore=kind == "ignore")
    labels = Classes.of_dataset(KINDS[kind]).foreground(kept_of)
    steps = [{"labels_or_regions": label} for label in labels]
    for file in predictions.iterdir():
        output = tmp_path / "postprocessed" / file.name
        output.parent.mkdir(exist_ok=True)
        load_postprocess_save(str(file), str(output), SimpleITKIO(), [keep_largest] * len(steps), steps)

    summary = measure(references, predictions, KINDS[kind], on_demand=ON_DEMAND, largest_component=labels)
    after = summary.pop("largest_component")
    assert len(after.pop("largest_component_of")) == len(kept_of or LABELS) - (not kept_of)
    assert after["foreground_mean"]["betti_error"] < summary["foreground_mean"]["betti_error"]
    assert str(summary) == str(measure(references, predictions, KINDS[kind], on_demand=ON_DEMAND))
    expected = measure(references, tmp_path / "postprocessed", KINDS[kind], on_demand=ON_DEMAND)
    assert str(after).replace("predictions", "postprocessed") == str(expected)


def test_a_measure_that_there_is_not_is_named_before_the_work(folders):
    with pytest.raises(ValueError, match="called clDiCe: there are clDice, betti_matching_error"):
        measure(*folders(), KINDS["labels"], on_demand=["clDice", "clDiCe"])


def test_several_processes_give_the_same(folders):
    folders = folders()
    assert str(measure(*folders, KINDS["labels"], num_processes=2)) == str(measure(*folders, KINDS["labels"]))


def test_what_was_measured_before_a_process_was_ended_is_kept(folders, monkeypatch):
    def ended(work, tasks, num_processes, title):
        yield from ((key, work(*arguments)) for key, arguments in list(tasks.items())[:3])
        raise RuntimeError("a process was ended from outside")

    folders = folders()
    whole = measure(*folders, KINDS["labels"])
    monkeypatch.setattr("nnunet_topomae.evaluation.folder.in_processes", ended)
    summary = measure(*folders, KINDS["labels"])
    assert str(summary["metric_per_case"]) == str(whole["metric_per_case"][:3])
    assert summary["partial"] == {"case[3]": "case[3] was not measured: a process was ended from outside"}


def test_a_class_that_is_nowhere_leaves_the_foreground_mean(folders):
    """nnU-Net's turns NaN."""
    labels = LABELS | {"nowhere": 4}
    summary = measure(*folders(), {"labels": labels})
    with_it, without = summary["foreground_mean"], measure(*folders(), {"labels": LABELS})["foreground_mean"]
    assert math.isnan(summary["mean"]["4"]["Dice"]) and summary["mean"]["4"]["both_empty"] == 4
    assert all(with_it[name] == without[name] for name in chosen_measures(()))
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
    meanings = measure(*folders(), KINDS["labels"], on_demand=ON_DEMAND)["definitions"]
    assert set(meanings) == set(MEASURES)
    assert meanings["HD95"]["unit"] == "mm" and meanings["volume_error"]["unit"] == "mm³"
    assert "larger of the two directed" in meanings["HD95"]["definition"]


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def hold(value: float) -> Callable[[Path], None]:
    return lambda file: write(file, np.pad(np.full((1, 1, 1), value, np.float32), [(3, 8), (3, 16), (3, 16)]))


@pytest.mark.parametrize("folder", ["labelsTs", "predictions"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "cut off or damaged"),
        (hold(7), "holds the label 7, which dataset.json does not list"),
        (hold(1.5), "holds 1.5: labels are whole"),
        (hold(-1), "holds -1"),
    ],
)
def test_a_bad_case_is_named_and_does_not_cost_the_others(folders, tmp_path, folder, damage, says):
    """The voxels that SimpleITK makes up for a cut file changed a Dice of 0.76 to 0.41 once."""
    references, predictions = folders()
    whole = measure(references, predictions, KINDS["labels"])
    file = tmp_path / folder / "case[2].nii.gz"
    damage(file)
    (references / "case[1].nii.gz").write_bytes(b"not an image")
    summary = measure(references, predictions, KINDS["labels"])
    assert summary["partial"].keys() == {"case[1]", "case[2]"}
    assert str(file) in summary["partial"]["case[2]"] and says in summary["partial"]["case[2]"]
    assert str(summary["metric_per_case"]) == str([whole["metric_per_case"][case] for case in (0, 3)])
    mean = np.mean([whole["metric_per_case"][case]["metrics"]["1"]["Dice"] for case in (0, 3)])
    assert summary["mean"]["1"]["Dice"] == mean and "partial" not in whole


def test_folders_are_measured_on_the_same_cases(folders, tmp_path):
    references, predictions = folders()
    shutil.copytree(predictions, tmp_path / "others")
    cut(predictions / "case[0].nii.gz")
    cut(tmp_path / "others" / "case[0].nii.gz")
    cut(tmp_path / "others" / "case[3].nii.gz")
    description = {"file_ending": ".nii.gz"} | KINDS["labels"]
    both = {name: pair_files(references, tmp_path / name, description) for name in ("predictions", "others")}
    for summary in evaluate_folders(both, Classes.of_dataset(description)).values():
        assert len(summary["metric_per_case"]) == 2 and summary["partial"].keys() == {"case[0]", "case[3]"}
        assert all(f"{name}/case[0]" in summary["partial"]["case[0]"] for name in both)


def test_values_that_nobody_asked_for_are_named(tmp_path):
    """As of masks with 0 and 255, and no dataset.json."""
    for folder in ("gt", "predicted"):
        write(tmp_path / folder / "a.nii.gz", np.full((4, 5, 6), 255, np.uint8))
    pairs = pair_files(tmp_path / "gt", tmp_path / "predicted", {"file_ending": ".nii.gz"})
    summary = evaluate_folder(pairs, Classes({}).choose(["1"]))
    assert summary["values_not_measured"] == {"255": 1} and math.isnan(summary["mean"]["1"]["Dice"])
    assert "255 in 1 cases" in heading("predicted", summary)
    for choice in (Classes({}, ignore_label=255).choose(["1"]), Classes({}).choose(["1,255"])):
        assert "values_not_measured" not in evaluate_folder(pairs, choice)

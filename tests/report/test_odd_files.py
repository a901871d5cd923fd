"""Files of other tools, other machines and other minds: the page shows the rest and says what it could not read."""

import json
import os
import random
from datetime import datetime

import pytest

from nnunet_topomae.report import page
from nnunet_topomae.report.health import findings, state
from nnunet_topomae.report.models import models_of, result
from nnunet_topomae.report.runs import file_name, read_runs, split_model_name

NOW = datetime(2026, 11, 30)
CIRCLE = {"3d_fullres": {"inherits_from": "b"}, "b": {"inherits_from": "3d_fullres"}}


def rewrite(file, *path, value):
    """Puts a value into a JSON file."""
    content = json.loads(file.read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "path", "value", "said"),
    [
        ("plans.json", ["configurations", "3d_fullres", "inherits_from"], "none", "configuration in plans.json"),
        ("plans.json", ["configurations"], CIRCLE, "configuration in plans.json cannot be read"),
        ("plans.json", ["configurations"], 3, "configuration in plans.json cannot be read"),
        ("dataset.json", ["labels", "ignore"], [1, 2], "labels in dataset.json cannot be read"),
        ("dataset.json", ["labels", "liver"], "one", "labels in dataset.json cannot be read"),
        ("dataset.json", ["labels"], ["liver"], "labels in dataset.json cannot be read"),
    ],
)
def test_an_odd_value_is_said_and_costs_itself_alone(results, file, path, value, said):
    folder = results.segmentation(checkpoint=None)
    rewrite(folder.parent / file, *path, value=value)
    (run,) = read_runs([folder])
    assert any(said in sentence for sentence in run.missing)
    html = page.render([run], 0, NOW)
    assert "case_2" in html and '<section id="metrics">' in html and said in html


def test_what_is_no_number_is_none(results):
    folder = results.segmentation(checkpoint=None)
    for value in (float("inf"), "text", None, [], True):
        rewrite(folder / "validation" / "summary.json", "metric_per_case", 0, "metrics", "1", "Dice", value=value)
        (model,) = models_of(read_runs([folder]))
        assert result(model).endswith("over 3 cases")  # its other class has a Dice


def test_any_value_anywhere_leaves_a_page(results):
    """Fuzzed: one place of one file at a time."""
    folder = results.segmentation(checkpoint=None)
    draw = random.Random(0)
    odd = [None, True, [], {}, "", -1, 3.5, float("nan"), 10**400, ["a"], {"a": 1}, "\ud800", "x" * 10_000, "../.."]
    for name in ("plans.json", "dataset.json", "fold_0/debug.json", "fold_0/validation/summary.json"):
        file = folder.parent / name
        whole = file.read_text()
        for path in draw.choices(places(json.loads(whole)), k=3):
            rewrite(file, *path, value=draw.choice(odd))
            html = page.render(read_runs([folder]), 1, NOW)
            assert '<section id="missing">' in html and "could not" not in html
            file.write_text(whole)


def places(value, at=()):
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, of_key in inner for path in [(*at, key), *places(of_key, (*at, key))]]


def test_a_part_that_fails_stops_no_other(results, monkeypatch):
    def fail(runs):
        raise ZeroDivisionError("of nobody's making")

    monkeypatch.setattr(page, "curve_figures", fail)
    html = page.render(read_runs([results.segmentation()]), 1, NOW)
    assert "No curves: ZeroDivisionError: of nobody&#39;s making." in html and "predictions and errors" in html


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b/case_1.nii.gz", "case_1.nii.gz"),
        (r"C:\nnUNet_results\fold_0\validation\case_1.nii.gz", "case_1.nii.gz"),
        (r"C:/nnUNet_results\validation/case_1.nii.gz", "case_1.nii.gz"),
        (r"\\server\share\case_1.nii.gz", "case_1.nii.gz"),
        (r"/a/back\slash.nii.gz", r"back\slash.nii.gz"),
    ],
)
def test_paths_of_any_machine_have_a_name(path, name):
    assert file_name(path) == name


def test_a_summary_of_windows_shows_its_cases(results):
    folder = results.segmentation(checkpoint=None)
    file = folder / "validation" / "summary.json"
    file.write_text(file.read_text().replace("/elsewhere/validation/", r"C:\\r\\").replace("/elsewhere/", r"D:\\p\\"))
    (run,) = read_runs([folder])
    assert "case_1" in run.validation.cases and run.validation.files["case_1"][0] == r"C:\r\case_1.nii.gz"
    assert page.render([run], 3, NOW).count(": reference, predictions and errors") == 3


@pytest.mark.parametrize(
    ("folder", "parts"),
    [
        ("nnUNetTrainer__nnUNetPlans__3d_fullres", ("nnUNetTrainer", "nnUNetPlans", "3d_fullres")),
        ("nnUNetTrainer__nnUNetPlans__v2__3d_fullres", ("nnUNetTrainer", "nnUNetPlans__v2", "3d_fullres")),
        ("nnUNetTrainer", ("nnUNetTrainer", "", "")),
    ],
)
def test_plans_alone_may_have_two_lines_in_their_name(folder, parts):
    assert split_model_name(folder) == parts


def test_more_folds_than_letters(results):
    for trainer in range(28):
        results.fold(f"Trainer{trainer:02d}", checkpoint=None)
    runs = read_runs([results.dataset])
    assert [run.letter for run in runs[24:]] == ["Y", "Z", "AA", "AB"]
    assert "AB Trainer27" in page.render(runs, 0, NOW)


def test_a_cut_final_checkpoint_beside_a_whole_one(results):
    folder = results.fold(checkpoint="best")
    whole = (folder / "checkpoint_best.pth").read_bytes()
    (folder / "checkpoint_final.pth").write_bytes(whole[: len(whole) // 2])
    (run,) = read_runs([folder])
    assert run.epochs == 2 and run.checkpoint == "checkpoint_best.pth"
    assert run.missing[0].startswith("checkpoint_final.pth cannot be read")
    assert state(run) == "checkpoint_final.pth damaged, 2 of 2 epochs"
    assert findings(run, NOW) == ["checkpoint_final.pth cannot be read, so nothing can be predicted with it."]


def test_a_log_of_bytes_and_a_case_of_bytes(results, tmp_path):
    folder = results.segmentation(checkpoint=None)
    (folder / "training_log_0.txt").symlink_to("nowhere")
    (folder / "training_log_1.txt").write_bytes(b"\xff\x00" * 1000 + "\nWARNING: \u05e9\n".encode())
    name = os.fsdecode(b"case_\xff")
    rewrite(folder / "validation" / "summary.json", "metric_per_case", 0, "prediction_file", value=f"/a/{name}.nii.gz")
    text = page.write_report([folder], tmp_path / "report.html", 1).read_text(encoding="utf-8")
    assert "WARNING: \u05e9" in text and "case_?" in text

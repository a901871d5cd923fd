"""`nnunet-topomae evaluate` as a user calls it."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_topomae import cli
from nnunet_topomae.evaluation.segmentation import ON_DEMAND

LABELS = {"background": 0, "liver": 1, "cyst": 2, "ignore": 3}


def write(file: Path, labels: np.ndarray) -> None:
    file.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((0.5, 1.0, 3.0))
    sitk.WriteImage(image, str(file))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with references and two folders of predictions of three cases."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for case in range(3):
        reference = np.zeros((8, 12, 14), np.uint8)
        reference[2:6, 2:9, 3:10] = 1
        reference[3:5, 4:6, 4:6] = 2
        reference[0] = 3
        write(tmp_path / "labelsTs" / f"case_{case}.mha", reference)
        for folder, wrong in (("good", 0.01), ("bad", 0.1)):
            prediction = np.where(rng.random(reference.shape) < wrong, 1, reference % 3).astype(np.uint8)
            write(tmp_path / folder / f"case_{case}.mha", prediction)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".mha"}))
    return tmp_path


def test_a_folder(work, capsys):
    cli.main("evaluate labelsTs good --csv cases.csv -np 1".split())
    out = capsys.readouterr().out
    assert "mean over 3 cases, distances in mm, volumes in mm³" in out
    assert "HD95: larger of the two directed 95th percentiles" in out and "| liver " in out
    summary = json.loads((work / "good" / "summary.json").read_text())
    assert set(summary["mean"]) == {"1", "2"} and summary["label_names"] == {"1": "liver", "2": "cyst"}
    rows = list(csv.DictReader((work / "cases.csv").open()))
    assert [(row["case"], row["name"]) for row in rows[:2]] == [("case_0.mha", "liver"), ("case_0.mha", "cyst")]
    case = summary["metric_per_case"][0]["metrics"]["1"]
    assert float(rows[0]["HD95"]) == case["HD95"] and float(rows[0]["Dice"]) == case["Dice"]


def test_several_folders_are_compared(work, capsys):
    cli.main("evaluate labelsTs bad good -o comparison.json -np 1 --labels liver 1,2".split())
    assert "good − bad" in capsys.readouterr().out
    content = json.loads((work / "comparison.json").read_text())
    assert set(content["folders"]["good"]["mean"]) == {"(1, 2)", "1"}
    dice = next(row for row in content["comparison"] if row["measure"] == "Dice" and row["name"] == "liver")
    of = [content["folders"][name]["mean"]["1"]["Dice"] for name in ("good", "bad")]
    assert dice["mean_difference"] == pytest.approx(of[0] - of[1]) and dice["mean_difference"] > 0
    assert (work / "comparison.png").stat().st_size > 10_000


def test_measures_on_demand_and_what_post_processing_would_change(work, capsys):
    files = "-o comparison.json --csv cases.csv -np 1"
    cli.main(f"evaluate labelsTs bad good {files} --metrics {' '.join(ON_DEMAND)} --largest-component liver".split())
    out = capsys.readouterr().out
    assert "good, largest component − bad, largest component" in out and "largest component left of liver\n" in out
    content = json.loads((work / "comparison.json").read_text())
    compared = {(row["measure"], row["other"]) for row in content["comparison"]}
    assert compared >= {(name, f"good{after}") for name in ON_DEMAND for after in ("", ", largest component")}
    bad = content["folders"]["bad"]
    liver, cyst = ([s["mean"][label]["betti_error"] for s in (bad, bad["largest_component"])] for label in "12")
    assert liver[0] > liver[1] and cyst[0] == cyst[1]
    rows = list(csv.DictReader((work / "cases.csv").open()))
    assert len(rows) == 2 * 2 * 3 * 2 and {row["predictions"] for row in rows} >= {"good", "good, largest component"}
    assert all(row[name] for row in rows for name in ON_DEMAND)


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("folders", ["good", "good bad"])
def test_one_bad_case_leaves_a_result_that_says_it_is_partial(work, capsys, folders):
    cut(work / "good" / "case_1.mha")
    with pytest.raises(SystemExit) as stop:
        cli.main(f"evaluate labelsTs {folders} -np 1 -o result.json --csv result.csv".split())
    printed = capsys.readouterr()
    assert stop.value.code == 2 and re.fullmatch(".*partial.*good/case_1.mha .*cut off.*\n", printed.err)
    assert "PARTIAL: mean over 2 of 3 cases" in printed.out
    content = json.loads((work / "result.json").read_text())
    assert content["partial"].keys() == {"case_1"}
    for summary in content.get("folders", {"good": content}).values():
        assert [Path(case["prediction_file"]).name for case in summary["metric_per_case"]] == [
            "case_0.mha",
            "case_2.mha",
        ]
    assert "case_1" not in (work / "result.csv").read_text()


def test_all_bad_files_are_named_where_none_is_good(work, refused):
    for file in (work / "good").iterdir():
        cut(file)
    refused("evaluate labelsTs good -np 1", saying="none of 3 cases .*case_0.mha.*case_1.mha.*case_2.mha")
    assert not (work / "good" / "summary.json").exists()


def test_an_interruption_is_one_line(work, monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nnunet_topomae.evaluation.folder.in_processes", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main("evaluate labelsTs good".split())
    assert stop.value.code == 130 and capsys.readouterr().err == "nnunet-topomae evaluate: interrupted\n"


@pytest.mark.parametrize("arguments", ["labelsTs good", "labelsTs bad good"])
@pytest.mark.parametrize("terminal", ["ascii", "closed"])
def test_what_cannot_be_shown_is_written(work, monkeypatch, arguments, terminal):
    """On a terminal without "−", and where nobody listens (`| head`)."""
    listening, speaking = os.pipe()
    if terminal == "closed":
        os.close(listening)
    monkeypatch.setattr(sys, "stdout", os.fdopen(speaking, "w", encoding="ascii"))
    cli.main(f"evaluate {arguments} -np 1 -o result.json --csv result.csv".split())
    assert (work / "result.json").is_file() and (work / "result.csv").is_file()


def test_labels_without_a_dataset_json(work):
    (work / "dataset.json").unlink()
    cli.main("evaluate labelsTs good --labels 1 2 --ignore-label 3 -np 1 -o explicit.json".split())
    (work / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".mha"}))
    cli.main("evaluate labelsTs good -np 1 -o described.json".split())
    explicit, described = (json.loads((work / f"{name}.json").read_text()) for name in ("explicit", "described"))
    assert explicit["metric_per_case"] == described["metric_per_case"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("labelsTs bad good", "several folders .* -o comparison.json"),
        ("labelsTs good -o summary.txt", "must end in .json"),
        ("labelsTs good -o nowhere/summary.json", "nowhere is no folder"),
        ("labelsTs good -djfile other.json", "other.json"),
        ("labelsTs good --labels 7", "label 7: dataset.json lists the values 0, 1, 2, 3 alone"),
        ("labelsTs good --labels spleen", "'spleen' is no label: .* names liver, cyst"),
        ("labelsTs good --largest-component spleen", "'spleen' is no label: .* names liver, cyst"),
        ("labelsTs good --largest-component 0", "label 0 holds the background"),
        ("labelsTs good --metrics dice", "'dice' .*clDice.*betti_matching_error"),
        ("labelsTs good --labels 3", "label 3 is the label to ignore"),
        ("labelsTs good --ignore-label 2", "--ignore-label 2, but .*dataset.json says 3"),
        ("labelsTs good -np 0", "at least one process"),
        ("labelsTs good good -o c.json", "named twice"),
        ("nowhere good", "nowhere is no folder"),
        ("labelsTs good -o c.json --csv ./c.json", "c.json is named for two"),
        ("labelsTs bad good -o c.json --csv c.png", "c.png is named for two"),
    ],
)
def test_mistakes(work, refused, arguments, says):
    refused("evaluate", *arguments.split(), saying=says)
    assert not list(work.glob("**/summary.json"))


def test_a_folder_that_may_not_be_written_to_is_named_before_the_work(work, refused, monkeypatch):
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != Path("good"))
    refused("evaluate labelsTs good", saying="good may not be written to")


def test_nothing_is_overwritten_unasked(work, refused):
    theirs = work / "good" / "summary.json"
    theirs.write_text("nnU-Net's")
    refused("evaluate labelsTs good", saying="good/summary.json exists. Use --force")
    assert theirs.read_text() == "nnU-Net's"
    cli.main("evaluate labelsTs good -np 1 --force".split())
    assert "definitions" in json.loads(theirs.read_text())


def test_dataset_json_is_found_beside_predictions_as_nnunet_writes_it(work):
    description = json.loads((work / "dataset.json").read_text())
    description["labels"] = {"background": 0, "organ": [1, 2], "cyst": 2, "ignore": 3}
    (work / "good" / "dataset.json").write_text(json.dumps(description | {"regions_class_order": [1, 2]}))
    cli.main("evaluate labelsTs good -np 1".split())
    assert set(json.loads((work / "good" / "summary.json").read_text())["mean"]) == {"(1, 2)", "2"}


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ("{", "no valid JSON"),
        ("[]", "no JSON object"),
        ('{"labels": {"background": 0, "a": 1}}', "no file_ending"),
        ('{"labels": {"a": 1}, "file_ending": ".mha"}', "cannot read the labels .*Background"),
        ('{"labels": {"background": 0, "a": [1, 2], "b": 2}, "file_ending": ".mha"}', "regions_class_order"),
    ],
)
def test_a_bad_dataset_json_is_named(work, refused, description, says):
    (work / "dataset.json").write_text(description)
    refused("evaluate labelsTs good", saying=says)

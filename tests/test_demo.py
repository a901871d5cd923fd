"""The demo, with stand-ins for planning, training and prediction. `make demo` runs it for real."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_topomae import cli, demo
from nnunet_topomae.commands.demo import EXAMPLE
from nnunet_topomae.data.phantom import write_phantom_dataset
from nnunet_topomae.evaluation.thresholds import Baselines
from nnunet_topomae.folders import trainers_folder

STAND_IN = """#!{python}
import json, os, shutil, sys
from pathlib import Path
with open({calls!r}, "a") as calls:
    calls.write(json.dumps([Path(sys.argv[0]).name, sys.argv[1:], dict(os.environ)]) + "\\n")
{body}
"""

# Predictions are the references with half of their slices erased, from scratch two thirds. Evaluation is nnU-Net's, in
# threads for speed.
BODIES = {
    "nnUNetv2_plan_and_preprocess": """
(dataset,) = Path(os.environ["nnUNet_raw"]).iterdir()
cases = sorted(path.name for path in (dataset / "labelsTr").iterdir())
folder = Path(os.environ["nnUNet_preprocessed"], dataset.name)
shutil.copytree(dataset / "labelsTr", folder / "gt_segmentations")
shutil.copy(dataset / "dataset.json", folder)
(folder / "nnUNetPlans.json").write_text(json.dumps({
    "plans_name": "nnUNetPlans", "configurations": {}, "label_manager": "LabelManager",
    "image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}))
""",
    "nnUNetv2_train": """
(folder,) = Path(os.environ["nnUNet_preprocessed"]).iterdir()
Path(os.environ["nnUNet_results"], folder.name).mkdir(exist_ok=True)
cases = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "gt_segmentations").iterdir())
if not (folder / "splits_final.json").exists():
    (folder / "splits_final.json").write_text(json.dumps([{"train": cases[1:], "val": cases[:1]}]))
print("Epoch 0")
if os.environ.get("FAIL_IN") == sys.argv[-1]:
    sys.exit("the loss is NaN")
""",
    "nnUNetv2_predict": """
import SimpleITK as sitk
given = {sys.argv[i]: sys.argv[i + 1] for i in range(1, len(sys.argv), 2)}
(dataset,) = Path(os.environ["nnUNet_raw"]).iterdir()
Path(given["-o"]).mkdir()
for image in Path(given["-i"]).iterdir():
    case = image.name.replace("_0000", "")
    folder = dataset / ("labelsTs" if (dataset / "labelsTs" / case).exists() else "labelsTr")
    label = sitk.ReadImage(str(folder / case))
    share = 2 if given["-tr"] == "TopoMAEFinetuner" else 1.5
    label[:, :, : int(label.GetDepth() / share)] = 0
    sitk.WriteImage(label, str(Path(given["-o"], case)))
""",
    "nnUNetv2_evaluate_folder": """
import multiprocessing.dummy
from types import SimpleNamespace
from nnunetv2.evaluation import evaluate_predictions
evaluate_predictions.multiprocessing = SimpleNamespace(get_context=lambda kind: multiprocessing.dummy)
evaluate_predictions.evaluate_folder_entry_point()
""",
}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of nnU-Net are replaced by stand-ins, which write down how they were called."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, body in BODIES.items():
        script = commands / name
        script.write_text(STAND_IN.format(python=sys.executable, calls=str(tmp_path / "calls"), body=body))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(demo, "COMMANDS", commands)
    for name in [name for name in os.environ if name.startswith(("NNUNET_TOPOMAE_", "nnUNet_"))]:
        monkeypatch.delenv(name)
    return tmp_path / "calls"


def test_phantom_from_planning_to_table(calls: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("NNUNET_TOPOMAE_PRETRAIN_EPOCHS", "77")
    monkeypatch.chdir(tmp_path)
    cli.main(shlex.split(EXAMPLE)[1:])
    out = tmp_path / "topomae_demo"

    called = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [name for name, _, _ in called] == [
        "nnUNetv2_plan_and_preprocess",
        *("nnUNetv2_train",) * 3,
        *("nnUNetv2_predict", "nnUNetv2_evaluate_folder") * 2,
    ]
    arms = ["TopoMAEFinetuner", "TopoMAEFinetunerFromScratch"]
    assert [arguments[-1] for _, arguments, _ in called[1:4]] == ["TopoMAEPretrainer", *arms]
    assert [Path(arguments[arguments.index("-o") + 1]).name for name, arguments, _ in called[4::2]] == arms
    for _, _, environment in called:
        assert environment["nnUNet_raw"] == str(out / "raw")
        assert environment["nnUNet_extTrainer"] == str(trainers_folder())
    knobs = called[1][2]
    assert knobs["NNUNET_TOPOMAE_PRETRAIN_EPOCHS"] == "77" and knobs["NNUNET_TOPOMAE_PRESET"] == "tiny"

    printed = capsys.readouterr().out
    assert "$ nnUNetv2_plan_and_preprocess -d 100 -c 3d_fullres" in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (out / "dice.md").read_text().splitlines()]
    table = {row[0]: row[1:] for row in rows}
    for column, arm in enumerate(arms):
        summary = json.loads((out / "predictions" / arm / "summary.json").read_text())
        assert float(table["torus"][column]) == pytest.approx(summary["mean"]["2"]["Dice"], abs=1e-3)
        assert float(table["mean"][column]) == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-3)
    assert float(table["mean"][0]) > float(table["mean"][1])
    assert 0 < float(table["mean"][2]) < 0.6 and float(table["mean"][3]) == 0
    assert (out / "dice.md").read_text().strip() in printed and (out / "predictions.png").stat().st_size > 0


def test_a_dataset_without_test_cases_holds_out_the_validation_cases(calls: Path, tmp_path: Path) -> None:
    raw = tmp_path / "Dataset012_Mine"
    write_phantom_dataset(raw, num_training=3, num_test=0, seed=0, width=32)
    cases = [f"phantom_tr_00{i}" for i in range(3)]
    split = {"1": {"labelled": cases[1:2], "unlabelled": cases[:1], "val": cases[2:]}}
    (raw / "few_label_splits.json").write_text(json.dumps(split))
    out = tmp_path / "out"
    cli.main(["demo", "--dataset", str(raw), "--labels", "1", "--out", str(out)])
    fold = json.loads((out / "preprocessed" / raw.name / "splits_final.json").read_text())[0]
    assert fold == {"train": cases[1:2], "val": cases[2:], "unlabelled": cases[:1]}
    assert sorted(path.name for path in (out / "predictions" / "TopoMAEFinetuner").glob("*.nii.gz")) == [
        "phantom_tr_002.nii.gz"
    ]
    held_out, original = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr" / "phantom_tr_002_0000.nii.gz")))
        for folder in (raw, out / "raw" / raw.name)
    )
    assert np.array_equal(held_out, original)
    assert json.loads(calls.read_text().splitlines()[0])[1][:2] == ["-d", "12"]


def test_a_failing_command_shows_the_end_of_its_log(calls: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FAIL_IN", "TopoMAEFinetuner")
    log = tmp_path / "out" / "logs" / "3_nnUNetv2_train.log"
    with pytest.raises(SystemExit):
        cli.main(["demo", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert printed.out.rstrip().endswith("the loss is NaN") and "Epoch 0" in log.read_text()
    assert printed.err == f"nnunet-topomae demo: nnUNetv2_train failed with status 1: see {log}\n"


def test_only_a_folder_of_an_earlier_demo_is_replaced(tmp_path: Path, refused) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    refused("demo --out", mine, saying="no demo made it")
    assert list(mine.iterdir()) == [mine / "thesis.tex"]

    out = demo._fresh_folder(tmp_path / "out")
    (out / "logs" / "old.log").touch()
    (out / "notes.txt").touch()
    demo._fresh_folder(out)
    assert (out / "notes.txt").exists() and not (out / "logs" / "old.log").exists()


@pytest.mark.parametrize(
    ("name", "files", "options", "message"),
    [
        ("Dataset001_A", [], [], "no dataset.json"),
        ("Hippocampus", ["dataset.json", "imagesTr", "labelsTr"], [], "must be named DatasetXXX_Name"),
        ("Dataset001_A", ["dataset.json", "imagesTr", "labelsTr"], ["--labels", "4"], "few_label_splits.json"),
    ],
)
def test_bad_datasets_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, files: list[str], options: list[str], message: str, refused
) -> None:
    dataset = tmp_path / name
    dataset.mkdir()
    for file in files:
        (dataset / file).touch()
    refused("demo --dataset", dataset, "--out", tmp_path / "out", *options, saying=message)
    assert not (tmp_path / "out").exists()


def test_labels_of_the_phantom_make_no_sense(tmp_path: Path, refused) -> None:
    refused("demo --labels 4 --out", tmp_path / "out", saying="--labels needs --dataset")


def test_table() -> None:
    baselines = Baselines(threshold={"a": 0.25, "long name": 0.1}, background={"a": 0.0, "long name": 0.0})
    dice = {"pre-trained": {"a": 0.5, "long name": 0.9}, "from scratch": {"a": 0.5, "long name": 0.7}}
    assert demo.dice_table(dice, baselines).splitlines() == [
        "| class     | pre-trained | from scratch | best threshold | all background |",
        "| --------- | ----------- | ------------ | -------------- | -------------- |",
        "| a         | 0.500       | 0.500        | 0.250          | 0.000          |",
        "| long name | 0.900       | 0.700        | 0.100          | 0.000          |",
        "| mean      | 0.700       | 0.600        | 0.175          | 0.000          |",
    ]

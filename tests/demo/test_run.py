"""The demo, with stand-ins for nnU-Net's commands. `make demo` runs it for real."""

from __future__ import annotations

import json
import multiprocessing.dummy
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import SimpleITK as sitk
from nnunetv2.evaluation import evaluate_predictions

from nnunet_topomae import cli
from nnunet_topomae.commands.demo import EXAMPLE
from nnunet_topomae.data.phantom import write_phantom_dataset
from nnunet_topomae.demo import run
from nnunet_topomae.folders import trainers_folder


def segment(images: Path, labels: Path, output: Path) -> None:
    """The references with half of their slices erased."""
    output.mkdir(parents=True)
    for image in images.iterdir():
        label = sitk.ReadImage(str(labels / image.name.replace("_0000", "")))
        label[:, :, : label.GetDepth() // 2] = 0
        sitk.WriteImage(label, str(output / image.name.replace("_0000", "")))


def plan(raw: Path, preprocessed: Path, results: Path, command: list[str]) -> None:
    preprocessed.mkdir()
    shutil.copytree(raw / "labelsTr", preprocessed / "gt_segmentations")
    shutil.copy(raw / "dataset.json", preprocessed)
    plans = {
        **{"plans_name": "nnUNetPlans", "configurations": {}, "label_manager": "LabelManager"},
        **{"image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]},
    }
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))


def train(raw: Path, preprocessed: Path, results: Path, command: list[str]) -> None:
    if not (preprocessed / "splits_final.json").exists():
        cases = sorted(file.name.removesuffix(".nii.gz") for file in (raw / "labelsTr").iterdir())
        (preprocessed / "splits_final.json").write_text(json.dumps([{"train": cases[1:], "val": cases[:1]}]))
    if command[-1] == "TopoMAEFinetuner":
        (case,) = json.loads((preprocessed / "splits_final.json").read_text())[0]["val"]
        (folder := results / "images").mkdir(parents=True)
        (folder / f"{case}_0000.nii.gz").touch()
        validation = results / "TopoMAEFinetuner__nnUNetPlans__3d_fullres" / "fold_0" / "validation"
        segment(folder, preprocessed / "gt_segmentations", validation)
        measure(preprocessed, preprocessed / "gt_segmentations", validation)


def predict(raw: Path, preprocessed: Path, results: Path, command: list[str]) -> None:
    given = dict(zip(command[1::2], command[2::2], strict=True))
    shutil.rmtree(given["-o"])
    segment(Path(given["-i"]), raw / "labelsTs", Path(given["-o"]))


def evaluate(raw: Path, preprocessed: Path, results: Path, command: list[str]) -> None:
    measure(preprocessed, Path(command[1]), Path(command[2]))


def measure(preprocessed: Path, references: Path, predictions: Path) -> None:
    files = (preprocessed / "dataset.json", preprocessed / "nnUNetPlans.json")
    evaluate_predictions.compute_metrics_on_folder2(str(references), str(predictions), *map(str, files), chill=True)


STAND_INS = {
    "nnUNetv2_plan_and_preprocess": plan,
    "nnUNetv2_train": train,
    "nnUNetv2_predict": predict,
    "nnUNetv2_evaluate_folder": evaluate,
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Mapping[str, str]]]:
    """Commands and their environments, of which none was run."""
    calls = []

    def stand_in(shell: run.Shell, title: str, *command: str) -> None:
        calls.append((list(command), shell.environment))
        (raw,) = Path(shell.environment["nnUNet_raw"]).iterdir()
        folders = (Path(shell.environment[f"nnUNet_{name}"], raw.name) for name in ("preprocessed", "results"))
        STAND_INS[command[0]](raw, *folders, list(command))

    monkeypatch.setattr(run.Shell, "run", stand_in)
    threads = SimpleNamespace(get_context=lambda kind: multiprocessing.dummy)
    monkeypatch.setattr(evaluate_predictions, "multiprocessing", threads)
    for name in [name for name in os.environ if name.startswith(("NNUNET_TOPOMAE_", "nnUNet_"))]:
        monkeypatch.delenv(name)
    return calls


def test_phantom_from_planning_to_table(calls, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("NNUNET_TOPOMAE_PRETRAIN_EPOCHS", "77")
    monkeypatch.chdir(tmp_path)
    cli.main(shlex.split(EXAMPLE)[1:])
    out = tmp_path / "topomae_demo"
    assert [command[0].removeprefix("nnUNetv2_") for command, _ in calls] == [
        "plan_and_preprocess", "train", "train", "predict", "evaluate_folder"
    ]  # fmt: skip
    assert [command[-1] for command, _ in calls[1:3]] == ["TopoMAEPretrainer", "TopoMAEFinetuner"]
    for _, environment in calls:
        assert environment["nnUNet_raw"] == str(out / "raw")
        assert environment["nnUNet_extTrainer"] == str(trainers_folder())
        assert environment["NNUNET_TOPOMAE_PRETRAIN_EPOCHS"] == "77"

    printed, table = capsys.readouterr().out, (out / "dice.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    dice = {name: float(value) for name, value in rows[2:]}
    summary = json.loads((out / "predictions" / "summary.json").read_text())
    assert dice["torus"] == pytest.approx(summary["mean"]["2"]["Dice"], abs=1e-3)
    assert dice["mean"] == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-3)
    assert table.strip() in printed and "over 4 test cases" in printed


def test_the_budget_is_the_default_in_few_steps(calls, tmp_path: Path) -> None:
    """What a user gets who sets nothing, so that the demo does not show something else."""
    knobs = {name.removeprefix("NNUNET_TOPOMAE_") for name in run.BUDGET}
    assert {name for name in knobs if not name.endswith(("EPOCHS", "PER_EPOCH"))} == {"SEED"}


def test_a_dataset_without_test_cases_shows_its_validation_cases(calls, tmp_path: Path, capsys) -> None:
    raw = tmp_path / "Dataset012_Mine"
    write_phantom_dataset(raw, num_training=3, num_test=0, seed=0, width=32)
    cases = [f"phantom_tr_00{i}" for i in range(3)]
    split = {"1": {"labelled": cases[1:2], "unlabelled": cases[:1], "val": cases[2:]}}
    (raw / "few_label_splits.json").write_text(json.dumps(split))
    out = tmp_path / "out"
    cli.main(["demo", "--dataset", str(raw), "--labels", "1", "--out", str(out)])
    fold = json.loads((out / "preprocessed" / raw.name / "splits_final.json").read_text())[0]
    assert fold == {"train": cases[1:2], "val": cases[2:], "unlabelled": cases[:1]}
    assert len(calls) == 3 and calls[0][0][1:3] == ["-d", "12"]
    assert "over 1 validation cases" in capsys.readouterr().out
    assert (out / "raw" / raw.name).resolve() == raw


def test_a_failing_command_shows_the_end_of_its_log(tmp_path: Path, capsys) -> None:
    shell = run.Shell({"WHAT": "the loss is NaN"}, tmp_path)
    code = "import os, sys; print('Epoch 0'); sys.exit(os.environ['WHAT'])"
    with pytest.raises(RuntimeError, match=r"python failed with status 1: see .*1_python\.log"):
        shell.run("1/1 Fail", "python", "-c", code)
    assert capsys.readouterr().out.rstrip().endswith("the loss is NaN")
    assert "Epoch 0" in (tmp_path / "1_python.log").read_text()


def test_only_a_folder_of_an_earlier_demo_is_replaced(tmp_path: Path, refused) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    refused("demo --out", mine, saying="no demo made it")
    assert list(mine.iterdir()) == [mine / "thesis.tex"]

    out = run._fresh_folder(tmp_path / "out")
    (out / "logs" / "old.log").touch()
    (out / "notes.txt").touch()
    run._fresh_folder(out)
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


def test_a_dataset_in_the_folder_that_is_emptied_is_refused(tmp_path: Path, refused) -> None:
    raw = run._fresh_folder(tmp_path / "out") / "raw"
    write_phantom_dataset(raw / "Dataset001_A", num_training=1, num_test=1, seed=0, width=32)
    (tmp_path / "Dataset002_B").symlink_to(raw / "Dataset001_A")
    write_phantom_dataset(tmp_path / "Dataset003_C", num_training=1, num_test=1, seed=0, width=32)
    (raw / "Dataset004_D").symlink_to(tmp_path / "Dataset003_C")
    for dataset in (raw / "Dataset001_A", tmp_path / "Dataset002_B", raw / "Dataset004_D"):
        refused("demo --out", tmp_path / "out", "--dataset", dataset, saying="which is emptied")
    assert (raw / "Dataset001_A" / "dataset.json").is_file() and (raw / "Dataset004_D").is_symlink()


def test_labels_of_the_phantom_make_no_sense(tmp_path: Path, refused) -> None:
    refused("demo --labels 4 --out", tmp_path / "out", saying="--labels needs --dataset")

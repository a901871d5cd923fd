"""The example in each command's --help works as typed, by a newcomer who has a dataset 100."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_topomae import cli
from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks import CoPretrainingNetwork
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.planning.plans_file import configuration_of, read_plans


@pytest.fixture
def newcomer(phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and nnU-Net's folders with dataset 100, planned and preprocessed."""
    for variable, theirs in {
        "nnUNet_raw": phantom.raw_dataset,
        "nnUNet_preprocessed": phantom.preprocessed_dataset,
    }.items():
        monkeypatch.setenv(variable, str(tmp_path / variable))
        shutil.copytree(theirs, tmp_path / variable / phantom.dataset_name)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nnUNet_results"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def prepare_apply_preset(folder: Path) -> None:
    """Synapse, converted and planned."""
    preset = json.loads((Path(__file__).parents[2] / "plans" / "synapse.json").read_text())
    name = "Dataset008_Synapse"
    raw, preprocessed = (Path(os.environ[f"nnUNet_{kind}"], name) for kind in ("raw", "preprocessed"))
    planned = next(Path(os.environ["nnUNet_preprocessed"]).iterdir()) / "nnUNetPlans.json"
    preprocessed.mkdir()
    shutil.copy(planned, preprocessed)
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for case in (case for part in preset["split"].values() for case in part):
        (raw / "imagesTr" / f"{case}_0000.nii.gz").touch()
        (raw / "labelsTr" / f"{case}.nii.gz").touch()
    (raw / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", "channel_names": {"0": "CT"}}))


def prepare_convert(folder: Path) -> None:
    for part, name in (("img", "img0001"), ("label", "label0001")):
        (folder / "RawData" / "Training" / part).mkdir(parents=True)
        image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8))
        sitk.WriteImage(image, str(folder / "RawData" / "Training" / part / f"{name}.nii.gz"))


def prepare_few_label_split(folder: Path) -> None:
    (raw,) = Path(os.environ["nnUNet_raw"]).iterdir()
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (raw / "labelsTr").iterdir())
    entry = {"labelled": cases[:2], "unlabelled": cases[2:4], "val": cases[4:]}
    (raw / "few_label_splits.json").write_text(json.dumps({"2": entry}))


def prepare_add_unlabelled(folder: Path) -> None:
    (raw,) = Path(os.environ["nnUNet_raw"]).iterdir()
    (folder / "scans").mkdir()
    shutil.copy(next((raw / "imagesTs").iterdir()), folder / "scans" / "scan_0000.nii.gz")


def prepare_with_unlabelled(folder: Path) -> None:
    prepare_add_unlabelled(folder)
    cli.main(["add-unlabelled", "-d", "100", "-i", "scans", "-np", "1"])


def prepare_evaluate(folder: Path) -> None:
    (raw,) = Path(os.environ["nnUNet_raw"]).iterdir()
    shutil.copytree(raw / "labelsTs", folder / "labelsTs")
    shutil.copytree(raw / "labelsTs", folder / "predictions")
    shutil.copy(raw / "dataset.json", folder)


def prepare_export_encoder(folder: Path) -> None:
    write_pretraining(folder)


def write_pretraining(folder: Path, fold: int | str = 0) -> None:
    (preprocessed,) = Path(os.environ["nnUNet_preprocessed"]).iterdir()
    knobs = {"preset": "tiny", "partner": "unetrpp", "topology_max_side": 12}
    plans = read_plans(preprocessed, "nnUNetPlans") | {"topomae": knobs}
    blueprint = Blueprint.of(configuration_of(plans, "3d_fullres").configuration, TopoMAEConfig(**knobs))
    network = CoPretrainingNetwork(1, *blueprint)
    arguments = {"plans": plans, "configuration": "3d_fullres", "fold": fold}
    torch.save({"network_weights": network.state_dict(), "init_args": arguments}, folder / "checkpoint_final.pth")


def prepare_report(folder: Path) -> None:
    fold = folder / "nnUNet_results" / "Dataset100_Phantom" / "TopoMAEPretrainer__nnUNetPlans__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    write_pretraining(fold)


def prepare_figure(folder: Path) -> None:
    for which in ("without", "with"):
        (folder / which / "fold_all").mkdir(parents=True)
        write_pretraining(folder / which / "fold_all", "all")


PREPARE: dict[str, Callable[[Path], None]] = {
    "apply-preset": prepare_apply_preset,
    "convert": prepare_convert,
    "few-label-split": prepare_few_label_split,
    "add-unlabelled": prepare_add_unlabelled,
    "list-unlabelled": prepare_with_unlabelled,
    "remove-unlabelled": prepare_with_unlabelled,
    "evaluate": prepare_evaluate,
    "export-encoder": prepare_export_encoder,
    "report": prepare_report,
    "figure": prepare_figure,
}


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "demo"])  # tests/test_demo.py has that one
def test_example(newcomer: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    PREPARE.get(name, lambda folder: None)(newcomer)
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    example = capsys.readouterr().out.rstrip().splitlines()[-1].strip()
    assert example == importlib.import_module(f"nnunet_topomae.commands.{name.replace('-', '_')}").EXAMPLE
    if example.startswith("nnunet-topomae "):
        assert shlex.split(example)[1] == name
        cli.main(shlex.split(example)[1:])
        assert capsys.readouterr().out
    else:
        done = subprocess.run(["sh", "-c", f"{example}; printenv nnUNet_extTrainer"], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr and Path(done.stdout.strip().split(os.pathsep)[-1]).is_dir()

"""Datasets made from the phantom, and what the examples of commands need."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks import CoPretrainingNetwork
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.planning.plans_file import configuration_of, read_plans


@pytest.fixture(scope="module")
def derive(phantom, smallest_budget):
    """A dataset of the phantom's first cases with other labels or images: `derive(id, name, num_cases, ...)`.

    `change` gets an image or a label [D, H, W] and returns another one; `channels` makes the channels of an image.
    """

    def derive(
        dataset_id: int,
        name: str,
        num_cases: int,
        description: dict | None = None,
        change_label: Callable[[np.ndarray], np.ndarray] = lambda label: label,
        channels: Callable[[np.ndarray], Sequence[np.ndarray]] = lambda image: [image],
        spacing: tuple[float, float, float] | None = None,
    ):
        dataset = replace(phantom, dataset_id=dataset_id, dataset_name=f"Dataset{dataset_id}_{name}")
        theirs = json.loads((phantom.raw_dataset / "dataset.json").read_text())
        dataset.raw_dataset.mkdir()
        content = theirs | {"name": dataset.dataset_name, "numTraining": num_cases} | (description or {})
        (dataset.raw_dataset / "dataset.json").write_text(json.dumps(content))
        for split, count in (("Tr", num_cases), ("Ts", 2)):
            images, labels = (dataset.raw_dataset / f"{kind}{split}" for kind in ("images", "labels"))
            for file in sorted((phantom.raw_dataset / f"labels{split}").glob("*.nii.gz"))[:count]:
                case = file.name.removesuffix(".nii.gz")
                _rewrite(file, [labels / file.name], lambda label: [change_label(label)], spacing)
                outputs = [images / f"{case}_{channel:04d}.nii.gz" for channel in range(len(content["channel_names"]))]
                _rewrite(phantom.raw_dataset / images.name / f"{case}_0000.nii.gz", outputs, channels, spacing)
        return dataset

    return derive


def _rewrite(file: Path, outputs: Sequence[Path], change: Callable, spacing: tuple[float, float, float] | None) -> None:
    image = sitk.ReadImage(str(file))
    for output, array in zip(outputs, change(sitk.GetArrayFromImage(image)), strict=True):
        output.parent.mkdir(exist_ok=True)
        changed = sitk.GetImageFromArray(array)
        changed.SetSpacing(spacing[::-1] if spacing else image.GetSpacing())
        sitk.WriteImage(changed, str(output))


@pytest.fixture(scope="session")
def plan_like(phantom) -> Callable[..., None]:
    """Gives a dataset the phantom's plans and fingerprint, with other configurations, and preprocesses it."""

    def plan_like(dataset, **configurations: dict) -> None:
        dataset.preprocessed_dataset.mkdir()
        shutil.copy(phantom.preprocessed_dataset / "dataset_fingerprint.json", dataset.preprocessed_dataset)
        shutil.copy(dataset.raw_dataset / "dataset.json", dataset.preprocessed_dataset)
        plans = phantom.plans | {"dataset_name": dataset.dataset_name}
        plans["configurations"].update(configurations)
        (dataset.preprocessed_dataset / "nnUNetPlans.json").write_text(json.dumps(plans))
        for name in ["3d_fullres", *(name for name, own in configurations.items() if "data_identifier" in own)]:
            if not (dataset.preprocessed_dataset / f"nnUNetPlans_{name}").exists():
                dataset.call("nnUNetv2_preprocess", "-d", dataset.dataset_id, "-c", name, "-np", 1)

    return plan_like


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
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def prepare(newcomer: Path) -> Callable[[str], None]:
    """Puts into the working folder what the example of a command needs, by the command's name."""
    return lambda command: PREPARE.get(command, lambda folder: None)(newcomer)


def raw_dataset() -> Path:
    return next(Path(os.environ["nnUNet_raw"]).iterdir())


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
    organs = np.random.default_rng(0).integers(0, 14, (8, 9, 10)).astype(np.uint8)
    for part, voxels in (("img", np.zeros_like(organs)), ("label", organs)):
        (folder / "RawData" / "Training" / part).mkdir(parents=True)
        file = folder / "RawData" / "Training" / part / f"{part}0001.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(file))


def prepare_few_label_split(folder: Path) -> None:
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (raw_dataset() / "labelsTr").iterdir())
    entry = {"labelled": cases[:2], "unlabelled": cases[2:4], "val": cases[4:]}
    (raw_dataset() / "few_label_splits.json").write_text(json.dumps({"2": entry}))


def prepare_unlabelled(folder: Path) -> None:
    (folder / "scans").mkdir()
    shutil.copy(next((raw_dataset() / "imagesTs").iterdir()), folder / "scans" / "scan_0000.nii.gz")


def prepare_evaluate(folder: Path) -> None:
    for name in ("labelsTs", "predictions"):
        shutil.copytree(raw_dataset() / "labelsTs", folder / name)
    shutil.copy(raw_dataset() / "dataset.json", folder)


def prepare_export_encoder(folder: Path, fold: int | str = 0) -> None:
    (preprocessed,) = Path(os.environ["nnUNet_preprocessed"]).iterdir()
    knobs = {"preset": "tiny", "partner": "unetrpp", "topology_max_side": 12}
    plans = read_plans(preprocessed, "nnUNetPlans") | {"topomae": knobs}
    blueprint = Blueprint.of(configuration_of(plans, "3d_fullres").configuration, TopoMAEConfig(**knobs))
    network = CoPretrainingNetwork(1, *blueprint)
    arguments = {"plans": plans, "configuration": "3d_fullres", "fold": fold}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"network_weights": network.state_dict(), "init_args": arguments}, folder / "checkpoint_final.pth")


def prepare_report(folder: Path) -> None:
    model = "Dataset100_Phantom/TopoMAEPretrainer__nnUNetPlans__3d_fullres"
    prepare_export_encoder(folder / "nnUNet_results" / model / "fold_0")


PREPARE: dict[str, Callable[[Path], None]] = {
    "apply-preset": prepare_apply_preset,
    "convert": prepare_convert,
    "few-label-split": prepare_few_label_split,
    "unlabelled": prepare_unlabelled,
    "evaluate": prepare_evaluate,
    "export-encoder": prepare_export_encoder,
    "report": prepare_report,
}

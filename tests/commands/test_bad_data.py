"""Damaged data are an error that names the case before training starts; odd but legal data train."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_topomae.data.phantom import write_phantom_dataset

pytestmark = pytest.mark.slow

TWO_STEPS = {"NNUNET_TOPOMAE_ITERATIONS_PER_EPOCH": 2}


def edit(file: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = sitk.ReadImage(str(file))
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.SetSpacing(image.GetSpacing())
    sitk.WriteImage(changed, str(file))


@pytest.fixture(scope="module")
def odd(phantom):
    """Legal oddities, planned and preprocessed: a constant image, labels without foreground, volumes of one slice."""
    odd = replace(phantom, dataset_id=101, dataset_name="Dataset101_Odd")
    write_phantom_dataset(odd.raw_dataset, num_training=6, num_test=0, seed=1, width=32)
    images, labels = odd.raw_dataset / "imagesTr", odd.raw_dataset / "labelsTr"
    names = {"constant": 1, "empty": 2, "slice": 3, "empty_too": 4, "slice_too": 5}
    for name, number in names.items():
        (images / f"phantom_tr_{number:03d}_0000.nii.gz").rename(images / f"{name}_0000.nii.gz")
        (labels / f"phantom_tr_{number:03d}.nii.gz").rename(labels / f"{name}.nii.gz")
    edit(images / "constant_0000.nii.gz", lambda image: np.full_like(image, 7))
    for name in ("empty", "empty_too"):
        edit(labels / f"{name}.nii.gz", np.zeros_like)
    for name in ("slice", "slice_too"):
        for file in (images / f"{name}_0000.nii.gz", labels / f"{name}.nii.gz"):
            edit(file, lambda volume: volume[16:17])
    odd.plan()
    splits = [
        {"train": ["constant", "empty", "phantom_tr_000", "slice"], "val": ["constant", "empty_too", "slice_too"]},
        {"train": ["empty"], "val": ["empty_too"]},
    ]
    (odd.preprocessed_dataset / "splits_final.json").write_text(json.dumps(splits))
    return odd


def validation(dataset, trainer: str, fold: int = 0) -> dict:
    folder = dataset.results / dataset.dataset_name / f"{trainer}__nnUNetPlans__3d_fullres" / f"fold_{fold}"
    assert (folder / "checkpoint_final.pth").is_file()
    return json.loads((folder / "validation" / "summary.json").read_text())


def test_constant_empty_and_single_slice_cases_train(odd, train):
    log = train(odd, "TopoMAEPretrainer", **TWO_STEPS)
    assert "The image is constant, so that nothing can be learnt from: constant" in log
    summary = validation(odd, "TopoMAEPretrainer")
    metrics = {case["case"]: case["metrics"]["partner"] for case in summary["metric_per_case"]}
    assert metrics.keys() == {"constant", "empty_too", "slice_too"}
    assert math.isnan(metrics["constant"].pop("psnr"))  # relative to a range of zero
    assert np.isfinite([value for of_case in metrics.values() for value in of_case.values()]).all()
    assert np.isfinite(list(summary["mean"]["partner"].values())).all()

    log = train(odd, "TopoMAEFinetuner", **TWO_STEPS)
    assert "nothing can be learnt from: constant" in log
    cases = {Path(case["prediction_file"]).name for case in validation(odd, "TopoMAEFinetuner")["metric_per_case"]}
    assert cases == {"constant.nii.gz", "empty_too.nii.gz", "slice_too.nii.gz"}


def test_a_fold_without_any_foreground_trains(odd, train):
    train(odd, "TopoMAEFinetuner", fold=1, NNUNET_TOPOMAE_PRETRAINED="none", **TWO_STEPS)
    (case,) = validation(odd, "TopoMAEFinetunerFromScratch", fold=1)["metric_per_case"]
    assert {metrics["n_ref"] for metrics in case["metrics"].values()} == {0}


@pytest.fixture
def damaged(phantom, tmp_path, monkeypatch):
    """The phantom with a fault of another kind in every case."""
    shutil.copytree(phantom.preprocessed_dataset, tmp_path / phantom.dataset_name)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    damaged = replace(phantom, preprocessed=tmp_path, results=tmp_path / "results")
    folder = damaged.preprocessed_dataset / "nnUNetPlans_3d_fullres"
    cases = sorted(file.stem for file in folder.glob("*.pkl"))
    splits = [{"train": cases[:4], "val": cases[4:]}]
    (damaged.preprocessed_dataset / "splits_final.json").write_text(json.dumps(splits))

    write_voxel(folder / f"{cases[0]}.b2nd", np.nan)
    truncate(folder / f"{cases[1]}.b2nd")
    truncate(folder / f"{cases[2]}_seg.b2nd")
    truncate(folder / f"{cases[3]}.pkl")
    (folder / f"{cases[4]}_seg.b2nd").unlink()
    write_voxel(folder / f"{cases[5]}_seg.b2nd", 9)
    return damaged


def write_voxel(file: Path, value: float) -> None:
    array = blosc2.open(str(file))[:]
    array[0, 3, 4, 5] = value
    file.unlink()
    blosc2.asarray(array, urlpath=str(file))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


FAULTS = (
    "phantom_tr_000: 1 voxels are NaN or infinite",
    "phantom_tr_001: cannot be read (RuntimeError",
    "phantom_tr_002: cannot be read (RuntimeError",
    "phantom_tr_003: cannot be read (",
    "phantom_tr_004: cannot be read (FileNotFoundError",
    "phantom_tr_005: labels reach from 0 to 9, dataset.json allows -1 to 4",
)


@pytest.mark.parametrize(
    ("trainer", "faults"),
    [("TopoMAEPretrainer", FAULTS[:5]), ("TopoMAEFinetunerFromScratch", FAULTS)],  # only the latter reads labels
)
def test_every_damaged_case_is_named_before_training_starts(damaged, train, trainer, faults):
    log = train(damaged, trainer, check=False)
    assert f"ValueError: {len(faults)} of 6 preprocessed cases" in log
    assert all(fault in log for fault in faults)
    assert "Epoch 0" not in log and not list(damaged.results.rglob("checkpoint_*"))
    assert len(list(damaged.preprocessed_dataset.rglob("*.pkl"))) == 6  # nothing was deleted

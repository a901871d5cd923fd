"""Damaged data are an error that names the case before training starts; odd but legal data train."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_topomae.data.phantom import write_phantom_dataset
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

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


def test_a_bad_label_is_refused_before_finetuning_and_nothing_to_pretraining(workshop):
    file = workshop.images / "phantom_tr_005_seg.b2nd"
    label = blosc2.open(str(file))[:]
    label[0, 3, 4, 5] = 9
    file.unlink()
    blosc2.asarray(label, urlpath=str(file))
    with pytest.raises(ValueError, match="phantom_tr_005: labels reach from 0 to 9, dataset.json allows -1 to 4"):
        workshop.build(TopoMAEFinetunerFromScratch).run_training()
    assert not list(workshop.results.rglob("checkpoint_*"))
    pretrainer = workshop.build(TopoMAEPretrainer)
    pretrainer.initialize()
    pretrainer._check_data()

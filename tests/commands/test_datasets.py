"""Channels, voxels and numbers of cases that nnU-Net meets in the field."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow

TRAINERS = ("TopoMAEPretrainer", "TopoMAEFinetunerFromScratch")


def four_contrasts(image: np.ndarray) -> list[np.ndarray]:
    """Of every fourth slice."""
    thick = image[::4]
    return [thick, -thick, np.sqrt(np.abs(thick)), np.roll(thick, 3, axis=1)]


@pytest.fixture(scope="module")
def thick_slices(derive):
    """Four channels, slices of 4 mm, planned by nnU-Net, trained in its own split."""
    channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    dataset = derive(
        *(130, "ThickSlices", 5, {"channel_names": channels}),
        change_label=lambda label: label[::4],
        channels=four_contrasts,
        spacing=(4.0, 1.0, 1.0),
    )
    dataset.plan()
    return dataset


def test_four_channels_of_thick_slices(thick_slices, read, tmp_path):
    pretrainer = thick_slices.train("TopoMAEPretrainer")
    patch, geometry = pretrainer.configuration_manager.patch_size, pretrainer.geometry
    assert 3 * patch[0] < patch[1] == patch[2]  # where nnU-Net augments in the plane alone
    assert geometry.token_size[0] < geometry.token_size[1]
    errors = thick_slices.validate(pretrainer)["mean"]
    assert np.isfinite([value for network in errors.values() for value in network.values()]).all()

    finetuner = thick_slices.train("TopoMAEFinetuner")
    for stem in finetuner.network.keys_to_in_proj:
        assert finetuner.network.get_submodule(stem).weight.shape[1] == 4
    assert set(thick_slices.validate(finetuner)["mean"]) == {"1", "2", "3", "4"}
    thick_slices.predict(tmp_path)
    truth = thick_slices.raw_dataset / "labelsTs" / "phantom_ts_000.nii.gz"
    assert read(tmp_path / "phantom_ts_000.nii.gz").shape == read(truth).shape


@pytest.fixture(scope="module")
def two_cases(phantom, derive, plan_like):
    """Two cases, and a patch larger than either."""
    dataset = derive(131, "TwoCases", 2)
    fullres = phantom.plans["configurations"]["3d_fullres"]
    plan_like(dataset, **{"3d_fullres": fullres | {"patch_size": [40, 48, 48]}})
    return dataset


@pytest.fixture
def no_split(two_cases):
    (two_cases.preprocessed_dataset / "splits_final.json").unlink(missing_ok=True)


def test_volumes_smaller_than_the_patch_in_fold_all(two_cases, no_split, read, tmp_path):
    pretrainer = two_cases.train("TopoMAEPretrainer", fold="all")
    points = next(pretrainer.get_dataloaders()[1])["points"]
    assert points.min() < 0 and points.max() > 1  # corners of the patch outside of the volume

    summary = two_cases.validate(two_cases.train("TopoMAEFinetuner", fold="all"))
    assert [case["reference_file"][-21:] for case in summary["metric_per_case"]] == [
        f"{case}.nii.gz" for case in two_cases.cases
    ]
    two_cases.call(
        *("nnUNetv2_predict", "-i", two_cases.raw_dataset / "imagesTs", "-o", tmp_path, "-d", two_cases.dataset_id),
        *("-c", "3d_fullres", "-f", "all", "-tr", "TopoMAEFinetuner", "-device", "cpu", "-npp", 0, "-nps", 0),
    )
    for case in ("phantom_ts_000", "phantom_ts_001"):
        truth = two_cases.raw_dataset / "labelsTs" / f"{case}.nii.gz"
        assert read(tmp_path / f"{case}.nii.gz").shape == read(truth).shape


@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_cases_are_too_few_for_five_folds(two_cases, no_split, trainer):
    with pytest.raises(ValueError, match="holds 2 cases, too few for nnU-Net's 5-fold split.(.|\n)*fold all"):
        two_cases.build(trainer).run_training()


def test_both_trainers_read_a_split_alike(two_cases):
    """Whatever validates the fine-tuned model was not seen in pre-training; also beyond the folds of the file."""
    first, second = two_cases.cases
    two_cases.write_split(([0], [1]), ([1], [0]))
    for fold in (0, 1, 2):
        pretraining, finetuning = (two_cases.build(trainer, fold=fold).do_split() for trainer in TRAINERS)
        assert list(pretraining) == list(finetuning)
        assert {*pretraining[0], *pretraining[1]} == {first, second} and len(pretraining[1]) == 1
    assert list(two_cases.build("TopoMAEFinetuner", fold=1).do_split()) == [[second], [first]]


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize(("fold", "missing"), [(([0, 1], []), "validation"), (([], [0, 1]), "training")])
def test_a_fold_without_cases_is_an_error(two_cases, trainer, fold, missing):
    two_cases.write_split(fold)
    with pytest.raises(ValueError, match=f"fold 0 has no {missing} case"):
        two_cases.build(trainer).run_training()


def test_unlabelled_cases_alone_are_enough_to_pretrain(two_cases):
    first, second = two_cases.cases
    split = [{"train": [], "unlabelled": [first], "val": [second]}]
    (two_cases.preprocessed_dataset / "splits_final.json").write_text(json.dumps(split))
    trainer = two_cases.train("TopoMAEPretrainer")
    assert trainer.do_split() == ([first], [second])

"""What nnU-Net does with a fine-tuned model: predict, compare, ensemble, postprocess, hand on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_topomae.folders import trainers_folder
from nnunet_topomae.training.finetuner import TopoMAEFinetuner

pytestmark = pytest.mark.slow

OURS, PLAIN = "TopoMAEFinetuner", "OneStepTrainer"
CASES = ("phantom_ts_000", "phantom_ts_001")
CONTRADICTIONS = {
    "NNUNET_TOPOMAE_PRESET": "base",
    "NNUNET_TOPOMAE_PARTNER": "plan",
    "NNUNET_TOPOMAE_FUSION": "partner_only",
    "NNUNET_TOPOMAE_PRETRAINED": "none",
}


@pytest.fixture(scope="module")
def dataset(derive, plan_like):
    """Two folds, each fine-tuned after its own pre-training, beside a plain nnU-Net; all validated with --npz.

    One of them in a process of its own, with a data worker and pools of nnU-Net's.
    """
    dataset = derive(140, "Predict", 4)
    plan_like(dataset)
    dataset.write_split(([0, 1], [2, 3]), ([2, 3], [0, 1]))
    for fold in (0, 1):
        dataset.train("TopoMAEPretrainer", fold=fold)
    dataset.run(
        *("nnUNetv2_train", dataset.dataset_id, "3d_fullres", 0, "-tr", OURS, "--npz", "-device", "cpu"),
        nnUNet_n_proc_DA=1,
    )
    dataset.validate(dataset.train(OURS, fold=1), probabilities=True)
    folders = os.pathsep.join([str(trainers_folder()), str(Path(__file__).parent / "trainers")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", folders)
        for fold in (0, 1):
            dataset.validate(dataset.train(PLAIN, fold=fold), probabilities=True)
        yield dataset


@pytest.fixture(scope="module")
def predictions(dataset, tmp_path_factory) -> Path:
    """Both folds together, with test-time augmentation."""
    folder = tmp_path_factory.mktemp("predictions")
    dataset.call(*predict(dataset, folder), "--save_probabilities")
    return folder


def predict(dataset, output: Path, trainer: str = OURS, processes: int = 0) -> tuple:
    return (
        *("nnUNetv2_predict", "-i", dataset.raw_dataset / "imagesTs", "-o", output, "-d", dataset.dataset_id),
        *("-c", "3d_fullres", "-f", 0, 1, "-tr", trainer, "-device", "cpu", "-npp", processes, "-nps", processes),
    )


def probabilities_of(folder: Path, case: str) -> np.ndarray:
    return np.load(folder / f"{case}.npz")["probabilities"]


def assert_same_segmentations(read, folder: Path, other: Path) -> None:
    """Up to voxels in which rounding decides."""
    for case in CASES:
        assert np.mean(read(folder / f"{case}.nii.gz") == read(other / f"{case}.nii.gz")) > 0.999


def test_a_checkpoint_holds_what_inference_needs_and_nothing_of_pretraining(dataset):
    checkpoint = torch.load(dataset.model() / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == OURS
    assert checkpoint["init_args"]["configuration"] == "3d_fullres"
    assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1, 2)

    plans = PlansManager(str(dataset.model() / "plans.json"))
    configuration = plans.get_configuration("3d_fullres")
    network = TopoMAEFinetuner.build_network_architecture(plans, configuration, 1, 5, enable_deep_supervision=False)
    network.load_state_dict(checkpoint["network_weights"])
    assert not [
        name
        for name in checkpoint["network_weights"]
        if any(part in name for part in ("position_head", "mask_token", "vit.decoder", "reconstruction"))
    ]


def test_probabilities_are_of_the_segmentation(predictions, read):
    for case in CASES:
        probabilities, segmentation = probabilities_of(predictions, case), read(predictions / f"{case}.nii.gz")
        assert probabilities.shape == (5, *segmentation.shape)
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-3)
        assert np.array_equal(probabilities.argmax(axis=0), segmentation)


def test_a_part_without_augmentation_is_the_mean_of_folds(dataset, predictions, tmp_path):
    """nnU-Net averages logits: probabilities of two folds are their geometric mean, normalised."""
    dataset.run(
        *predict(dataset, tmp_path / "part", processes=1),
        *("--save_probabilities", "--disable_tta", "-num_parts", 2, "-part_id", 1),
    )
    assert sorted(file.name for file in (tmp_path / "part").glob("*.nii.gz")) == [f"{CASES[1]}.nii.gz"]
    part = probabilities_of(tmp_path / "part", CASES[1])

    for fold in (0, 1):
        dataset.predict(tmp_path / str(fold), folds=[fold], probabilities=True)
    first, second = (probabilities_of(tmp_path / str(fold), CASES[1]) for fold in (0, 1))
    mean = np.sqrt(first * second)
    np.testing.assert_allclose(part, mean / mean.sum(axis=0), atol=5e-3)
    assert np.abs(first - second).max() > 0.05
    assert np.abs(part - probabilities_of(predictions, CASES[1])).max() > 0.01  # these are augmented


def test_the_environment_cannot_change_a_trained_model(dataset, predictions, read, tmp_path):
    dataset.call(*predict(dataset, tmp_path), **CONTRADICTIONS)
    assert_same_segmentations(read, tmp_path, predictions)


def test_a_model_moves_in_a_zip(dataset, predictions, read, tmp_path, monkeypatch):
    dataset.call(
        *("nnUNetv2_export_model_to_zip", "-d", dataset.dataset_id, "-o", tmp_path / "model.zip"),
        *("-c", "3d_fullres", "-tr", OURS, "-f", 0, 1),
    )
    elsewhere = tmp_path / "results"
    monkeypatch.setenv("nnUNet_results", str(elsewhere))
    dataset.call("nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip")
    assert (elsewhere / dataset.dataset_name / dataset.model().name / "fold_1" / "checkpoint_final.pth").is_file()

    dataset.call(*predict(dataset, tmp_path / "predictions"))
    assert_same_segmentations(read, tmp_path / "predictions", predictions)


def test_the_best_of_our_model_a_plain_one_and_both(dataset, phantom):
    dataset.call(
        *("nnUNetv2_find_best_configuration", dataset.dataset_id, "-c", "3d_fullres", "-tr", OURS, PLAIN),
        *("-f", 0, 1, "-np", 1),
    )
    results = phantom.results / dataset.dataset_name
    found = json.loads((results / "inference_information.json").read_text())
    ours, plain = f"{OURS}__nnUNetPlans__3d_fullres", f"{PLAIN}__nnUNetPlans__3d_fullres"
    scores = found["all_results"]
    assert set(scores) == {ours, plain, f"ensemble___{ours}___{plain}___0_1"}
    for model in (ours, plain):
        summary = json.loads((results / model / "crossval_results_folds_0_1" / "summary.json").read_text())
        assert scores[model] == summary["foreground_mean"]["Dice"]
        assert len(summary["metric_per_case"]) == 4
    assert found["best_model_or_ensemble"]["result_on_crossval_pre_pp"] == max(scores.values())
    assert "nnUNetv2_predict" in (results / "inference_instructions.txt").read_text()


def test_predicting_with_a_pretrained_model_says_what_to_do(dataset, tmp_path):
    printed = dataset.call(*predict(dataset, tmp_path, "TopoMAEPretrainer"), check=False)
    assert "it segments nothing" in printed
    assert "nnUNetv2_train Dataset140_Predict CONFIGURATION FOLD -tr TopoMAEFinetuner -p nnUNetPlans" in printed

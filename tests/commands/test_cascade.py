"""3d_lowres, then 3d_cascade_fullres that refines its segmentations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"
CASES = ("phantom_ts_000", "phantom_ts_001")
LEARNING_RATE = 3e-4  # so low that weights after one iteration show what they were before
STEMS = (
    "encoder.stem.0.weight",
    "encoder.image_block.conv1.weight",
    "encoder.image_block.shortcut.0.weight",
    "vit.token_embedding.weight",
)


def cascade_of(fullres: dict) -> dict[str, dict]:
    """The two configurations that nnU-Net's planner adds for large images."""
    kwargs = fullres["architecture"]["arch_kwargs"] | {"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}
    first = {
        "inherits_from": "3d_fullres",
        "data_identifier": f"nnUNetPlans_{FIRST}",
        "spacing": [2.0, 2.0, 2.0],
        "patch_size": [16, 16, 16],
        "median_image_size_in_voxels": [16, 16, 16],
        "architecture": fullres["architecture"] | {"arch_kwargs": kwargs},
        "next_stage": SECOND,
    }
    return {FIRST: first, SECOND: {"inherits_from": "3d_fullres", "previous_stage": FIRST}}


@pytest.fixture(scope="module")
def dataset(phantom, derive, plan_like):
    dataset = derive(120, "Cascade", 3)
    plan_like(dataset, **cascade_of(phantom.plans["configurations"]["3d_fullres"]))
    dataset.write_split(([0, 1], [2]))
    return dataset


@pytest.fixture(scope="module")
def first_stage(dataset):
    """Fold all: its validation segments every case for the second stage."""
    dataset.train("TopoMAEPretrainer", FIRST, "all")
    dataset.validate(dataset.train("TopoMAEFinetuner", FIRST, "all"))
    return dataset.model(configuration=FIRST)


@pytest.fixture(scope="module")
def pretrained(dataset, first_stage):
    return dataset.train("TopoMAEPretrainer", SECOND)


@pytest.fixture(scope="module")
def second_stage(dataset, pretrained):
    command = ("nnUNetv2_train", dataset.dataset_id, SECOND, 0, "-tr", "TopoMAEFinetuner", "-device", "cpu")
    dataset.call(*command, NNUNET_TOPOMAE_FINETUNE_LR=LEARNING_RATE)
    return dataset.model(configuration=SECOND)


def test_finetuning_starts_from_the_image_and_learns_from_the_labels(pretrained, second_stage):
    log = next((second_stage / "fold_0").glob("training_log_*.txt")).read_text()
    assert all(f"adapted {name}: 4 label channels added, zero" in log for name in STEMS)

    before = pretrained.network.state_dict()
    after = torch.load(second_stage / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    step = 1e-3  # more than one iteration moves a weight
    for name in STEMS:
        theirs = before[("vit.encoder." if name.startswith("vit.") else "partner.encoder.") + name.partition(".")[2]]
        torch.testing.assert_close(after[name][:, :1], theirs, rtol=0, atol=step)
        assert after[name][:, 1:].abs().max() < step
        assert after[name][:, 1:].any()


def test_prediction_refines_the_previous_stage(dataset, first_stage, second_stage, read, tmp_path):
    dataset.predict(tmp_path / "first", first_stage, ["all"])
    dataset.call(
        *("nnUNetv2_predict", "-i", dataset.raw_dataset / "imagesTs", "-o", tmp_path / "second"),
        *("-d", dataset.dataset_id, "-c", SECOND, "-f", 0, "-tr", "TopoMAEFinetuner", "-device", "cpu"),
        *("-prev_stage_predictions", tmp_path / "first", "-npp", 0, "-nps", 0, "--disable_tta"),
    )
    for case in CASES:
        segmentation = read(tmp_path / "second" / f"{case}.nii.gz")
        assert segmentation.shape == read(dataset.raw_dataset / "imagesTs" / f"{case}_0000.nii.gz").shape
        assert set(np.unique(segmentation)) <= {0, 1, 2, 3, 4}


def test_a_missing_first_stage_is_an_error_with_the_command_to_run(dataset):
    """A model from scratch refines segmentations of its own kind, and there are none."""
    with pytest.raises(FileNotFoundError) as error:
        dataset.build("TopoMAEFinetunerFromScratch", SECOND).run_training()
    assert "3 of 3 cases: phantom_tr_000, phantom_tr_001" in str(error.value)
    assert "nnUNetv2_train Dataset120_Cascade 3d_lowres FOLD -tr TopoMAEFinetunerFromScratch -p" in str(error.value)

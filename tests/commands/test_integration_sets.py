"""nnU-Net's own integration sets, made by its own generators from the Hippocampus data, command by command."""

from __future__ import annotations

import json
import runpy
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest

pytestmark = pytest.mark.slow

GENERATORS = "nnunetv2.dataset_conversion.datasets_for_integration_tests"
NUM_CASES = 6


@dataclass(frozen=True)
class IntegrationSet:
    """A generated dataset, which labels it may predict, and what summary.json has a Dice for."""

    name: str
    predicted: set[int]
    scored: set[str]


SETS = {
    996: IntegrationSet("IntegrationTest_Hippocampus_regions_ignore", {0, 1, 2}, {"(1, 2)", "1"}),
    997: IntegrationSet("IntegrationTest_Hippocampus_regions", {0, 1, 2}, {"(1, 2)", "1"}),
    998: IntegrationSet("IntegrationTest_Hippocampus_ignore", {0, 1}, {"1"}),
    999: IntegrationSet("IntegrationTest_Hippocampus", {0, 1, 2}, {"1", "2"}),
}


@pytest.fixture(scope="module")
def generated(shared_data, phantom, smallest_budget):
    """All sets, of a few cases each."""
    source, few = shared_data / "Dataset004_Hippocampus", phantom.raw / "Dataset004_Hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (few / folder).mkdir(parents=True)
        for file in sorted((source / folder).iterdir())[:NUM_CASES]:
            shutil.copyfile(file, few / folder / file.name)
    description = json.loads((source / "dataset.json").read_text()) | {"numTraining": NUM_CASES}
    description["labels"] = {"background": 0, "Anterior": 1, "Posterior": 2}  # as the generators spell them
    (few / "dataset.json").write_text(json.dumps(description))
    for number, integration_set in SETS.items():
        runpy.run_module(f"{GENERATORS}.Dataset{number}_{integration_set.name}", run_name="__main__")


@pytest.mark.parametrize("number", SETS)
def test_from_planning_to_evaluation(generated, phantom, number, read, tmp_path):
    expected = SETS[number]
    dataset = replace(phantom, dataset_id=number, dataset_name=f"Dataset{number}_{expected.name}")
    dataset.plan()
    # Labels are nothing to pre-training: that of one set shows it.
    trainers = ("TopoMAEPretrainer", "TopoMAEFinetuner") if number == 996 else ("TopoMAEFinetunerFromScratch",)
    for trainer in trainers:
        dataset.call("nnUNetv2_train", number, "3d_fullres", 0, "-tr", trainer, "-device", "cpu")
    model = dataset.model(trainer)
    validation = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert set(validation["mean"]) == expected.scored

    dataset.call(
        *("nnUNetv2_predict", "-i", dataset.raw_dataset / "imagesTr", "-o", tmp_path, "-d", number, "-c", "3d_fullres"),
        *("-f", 0, "-tr", trainer, "-device", "cpu", "-npp", 0, "-nps", 0, "--disable_tta"),
    )
    for case in dataset.cases:
        segmentation = read(tmp_path / f"{case}.nii.gz")
        assert segmentation.shape == read(dataset.raw_dataset / "labelsTr" / f"{case}.nii.gz").shape
        assert set(np.unique(segmentation)) <= expected.predicted
    dataset.call(
        *("nnUNetv2_evaluate_folder", dataset.raw_dataset / "labelsTr", tmp_path, "-np", 1),
        *("-djfile", dataset.raw_dataset / "dataset.json", "-pfile", model / "plans.json"),
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["mean"]) == expected.scored
    assert len(summary["metric_per_case"]) == NUM_CASES

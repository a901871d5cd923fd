"""Regions, ignored voxels and sparse annotation, from pre-training to evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss

pytestmark = pytest.mark.slow

PHANTOM_LABELS = {"background": 0, "ball": 1, "torus": 2, "shell": 3, "vessels": 4}
REGIONS = {"background": 0, "object": [1, 2, 3, 4], "tube": [2, 4], "vessels": 4}


@dataclass(frozen=True)
class Kind:
    """One kind of label, and what nnU-Net is to make of it.

    Attributes:
        labels, regions_class_order: of dataset.json.
        keep_every: only each so-manieth slice is annotated, the others hold the ignore label.
        num_outputs: channels of the network's output.
        predicted: the values that may stand in a prediction.
        scored: what summary.json has a Dice for.
    """

    labels: dict
    num_outputs: int
    predicted: set[int]
    scored: set[str]
    loss: type
    regions_class_order: list[int] = field(default_factory=list)
    keep_every: int = 1

    @property
    def description(self) -> dict:
        order = {"regions_class_order": self.regions_class_order} if self.regions_class_order else {}
        return {"labels": self.labels, **order}

    def annotate(self, label: np.ndarray) -> np.ndarray:
        annotated = label.copy()
        annotated[np.arange(len(label)) % self.keep_every != 0] = self.labels.get("ignore", 0)
        return annotated


ALL, REGION_KEYS = {"1", "2", "3", "4"}, {"(1, 2, 3, 4)", "(2, 4)", "4"}
KINDS = {
    "regions": Kind(REGIONS, 3, {0, 1, 2, 4}, REGION_KEYS, DC_and_BCE_loss, [1, 2, 4]),
    "sparse": Kind(PHANTOM_LABELS | {"ignore": 5}, 5, {0, 1, 2, 3, 4}, ALL, DC_and_CE_loss, keep_every=5),
    "regions_and_sparse": Kind(REGIONS | {"ignore": 5}, 3, {0, 1, 2, 4}, REGION_KEYS, DC_and_BCE_loss, [1, 2, 4], 5),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def finetuner(kind) -> str:
    """Pre-training reads no label: one kind, the richest, shows that it does not mind them."""
    return "TopoMAEFinetuner" if kind is KINDS["regions_and_sparse"] else "TopoMAEFinetunerFromScratch"


@pytest.fixture(scope="module")
def dataset(kind, finetuner, derive, plan_like):
    """Fine-tuned on two cases, validated on a third."""
    number = list(KINDS.values()).index(kind)
    dataset = derive(110 + number, f"Kind{number}", 3, kind.description, kind.annotate)
    plan_like(dataset)
    dataset.write_split(([0, 1], [2]))
    if finetuner == "TopoMAEFinetuner":
        dataset.train("TopoMAEPretrainer")
    dataset.validate(dataset.train(finetuner))
    return dataset


def test_validation_scores_what_is_annotated(kind, dataset, finetuner, read):
    case = dataset.cases[2]
    summary = json.loads((dataset.model(finetuner) / "fold_0" / "validation" / "summary.json").read_text())
    assert set(summary["mean"]) == kind.scored

    truth = read(dataset.raw_dataset / "labelsTr" / f"{case}.nii.gz")
    annotated = np.count_nonzero(truth != kind.labels["ignore"]) if "ignore" in kind.labels else truth.size
    for counts in summary["metric_per_case"][0]["metrics"].values():
        assert sum(counts[name] for name in ("TP", "FP", "FN", "TN")) == annotated


def test_prediction_has_a_channel_for_each_output_and_no_other_labels(kind, dataset, finetuner, read, tmp_path):
    dataset.predict(tmp_path, dataset.model(finetuner), probabilities=True)
    for case in ("phantom_ts_000", "phantom_ts_001"):
        segmentation = read(tmp_path / f"{case}.nii.gz")
        probabilities = np.load(tmp_path / f"{case}.npz")["probabilities"]
        assert probabilities.shape == (kind.num_outputs, *segmentation.shape)
        assert set(np.unique(segmentation)) <= kind.predicted
        if kind.regions_class_order:
            expected = np.zeros_like(segmentation)
            for label, probability in zip(kind.regions_class_order, probabilities, strict=True):
                expected[probability > 0.5] = label
        else:
            expected = probabilities.argmax(axis=0)
        assert np.array_equal(segmentation, expected)


def test_the_loss_is_nnunets_and_blind_to_ignored_voxels(kind, dataset, finetuner):
    trainer = dataset.build(finetuner)
    trainer.initialize()
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    targets = next(trainer.dataloader_train)["target"]
    assert type(trainer.loss.loss) is kind.loss

    outputs = [torch.randn(2, kind.num_outputs, *target.shape[2:], requires_grad=True) for target in targets]
    trainer.loss(outputs, targets).backward()
    for output, target in zip(outputs, targets, strict=True):
        ignored = ignored_voxels(kind, target)
        felt = output.grad.abs().sum(dim=1) > 0
        assert not felt[ignored].any()
        assert felt[~ignored].all()
    assert ignored_voxels(kind, targets[0]).any() == ("ignore" in kind.labels)


def ignored_voxels(kind: Kind, target: torch.Tensor) -> torch.Tensor:
    """[B, D, H, W] bool, of a target as nnU-Net's transforms leave it: labels, or regions and a channel to ignore."""
    if "ignore" not in kind.labels:
        return torch.zeros_like(target[:, 0], dtype=torch.bool)
    return target[:, -1].bool() if kind.regions_class_order else target[:, 0] == kind.labels["ignore"]

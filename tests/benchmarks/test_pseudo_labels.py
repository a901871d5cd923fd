"""A second training reads what teachers say of unlabelled images, but where they are unsure."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import LabelManager

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import pseudo_labels  # noqa: E402

LABELS = {"background": 0, "organ": 1, "cyst": 2}


def teacher(probabilities: torch.Tensor) -> SimpleNamespace:
    """One who gives these probabilities for any image."""
    return SimpleNamespace(
        label_manager=LabelManager(LABELS, None),
        predict_logits_from_preprocessed_data=lambda image: probabilities.log(),
    )


def of_organ(*values: float) -> torch.Tensor:
    """Probabilities [3, 1, 1, W] of a row of voxels, whose rest is the background's."""
    organ = torch.tensor(values).view(1, 1, 1, -1)
    return torch.cat([1 - organ, organ, torch.zeros_like(organ)])


@pytest.mark.parametrize(
    ("teachers", "wanted"),
    [
        ([(0.9, 0.9, 0.1, 0.9, 0.0)], [1, 1, 0, 0, 0]),  # an island is no organ
        ([(0.9, 0.7, 0.3, 0.1, 0.0)], [1, 9, 9, 0, 0]),  # unsure on either side of the border
        ([(1.0, 0.9, 0.3, 0.0, 0.0), (1.0, 0.5, 0.0, 0.0, 0.0)], [1, 9, 0, 0, 0]),  # the mean of both: 0.7, 0.15
    ],
)
def test_what_teachers_agree_on_is_the_label(teachers, wanted):
    answers = [teacher(of_organ(*values)) for values in teachers]
    label = pseudo_labels.pseudo_label(answers, torch.zeros(1, 1, 1, 5), [1, 2], ignore=9)
    assert label.shape == (1, 1, 1, 5) and label.ravel().tolist() == wanted


@pytest.fixture
def written(phantom, tmp_path, monkeypatch):
    """The phantom with one labelled case, whose teacher finds a box of class 1 in each of three unlabelled ones."""

    def box(image: torch.Tensor) -> torch.Tensor:
        logits = torch.full((5, *image.shape[1:]), -9.0)
        logits[0], logits[1, 4:9, 4:9, 4:9] = 0, 9
        return logits

    seen = SimpleNamespace(
        label_manager=LabelManager(
            json.loads((phantom.preprocessed_dataset / "dataset.json").read_text())["labels"], None
        ),
        predict_logits_from_preprocessed_data=box,
    )
    monkeypatch.setattr(pseudo_labels, "_predictor", lambda model, fold: seen)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for path in phantom.preprocessed_dataset.iterdir():
        (source / path.name).symlink_to(path)
    (source / "splits_final.json").unlink(missing_ok=True)
    split = {"train": phantom.cases[:1], "unlabelled": phantom.cases[1:4], "val": phantom.cases[4:]}
    (source / "splits_final.json").write_text(json.dumps([split]))
    pseudo_labels.write_pseudo_labelled_dataset(source, target, 0, [Path("model")], "nnUNetPlans_3d_fullres")
    return SimpleNamespace(source=source, target=target, data=target / "nnUNetPlans_3d_fullres", **split)


def test_true_labels_of_unlabelled_cases_are_not_read(written):
    label = {case: blosc2.open(str(written.data / f"{case}_seg.b2nd"), mode="r")[:] for case in written.unlabelled}
    assert all((seg == 1).sum() == 125 and set(np.unique(seg)) == {0, 1} for seg in label.values())
    original = written.source / "nnUNetPlans_3d_fullres" / f"{written.train[0]}_seg.b2nd"
    assert (written.data / f"{written.train[0]}_seg.b2nd").samefile(original)


def test_half_of_what_is_drawn_is_truly_labelled(written):
    (fold,) = json.loads((written.target / "splits_final.json").read_text())
    assert sorted(fold["train"]) == sorted(written.train * 3 + written.unlabelled) and fold["val"] == written.val


def test_nnunet_draws_crops_from_it(written):
    labels = LabelManager(json.loads((written.target / "dataset.json").read_text())["labels"], None)
    data = nnUNetDatasetBlosc2(str(written.data), written.unlabelled)
    batch = next(nnUNetDataLoader(data, 2, (16,) * 3, (16,) * 3, labels, oversample_foreground_percent=0.5))
    assert labels.ignore_label == 5 and batch["data"].shape == (2, 1, 16, 16, 16) and (batch["target"][1] == 1).any()

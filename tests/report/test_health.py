"""What the top of the page says of a training that is not all right."""

import os
from datetime import datetime, timedelta

import pytest

from nnunet_topomae.report.health import findings
from nnunet_topomae.report.models import models_of
from nnunet_topomae.report.runs import read_runs

NOW = datetime(2026, 11, 30, 12)
LOG = """
2026-11-30 10:00:00.123456: Epoch 3
2026-11-30 10:00:00.2: WARNING: the ViT gives nearly the same features (0.05)
2026-11-30 10:01:00.2: WARNING: the ViT gives nearly the same features (0.04)
2026-11-30 10:01:01.0: The image is constant, so that nothing can be learnt from: case_7
2026-11-30 10:01:02.0: train_loss 0.25
"""


def log_of(folder, text=LOG, age=timedelta(hours=2)):
    file = folder / "training_log_2026_11_30.txt"
    file.write_text(text)
    os.utime(file, ((NOW - age).timestamp(),) * 2)


def told(*folders) -> list[str]:
    return [sentence for run in read_runs(folders) for sentence in findings(run, NOW)]


def test_a_training_that_is_all_right_has_nothing_said_of_it(results):
    folder = results.segmentation()
    log_of(folder, "2026-11-30 10:01:02.0: error_over_harmonic_vit 0.4 \n2026-11-30 10:02:00.0: Training done. \n")
    assert told(folder) == []


def test_warnings_of_the_log_are_said_once_with_how_often_they_came(results):
    folder = results.segmentation()
    log_of(folder)
    assert told(folder) == [
        "WARNING: the ViT gives nearly the same features (0.04) (2 times)",
        "The image is constant, so that nothing can be learnt from: case_7",
    ]


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (timedelta(hours=2), "It stopped: not finished, 2 of 2 epochs. Its log ends on 2026-11-30 at 10:00"),
        (timedelta(minutes=1), "It may be running: not finished, 2 of 2 epochs, its log was written at 11:59"),
    ],
)
def test_why_a_training_has_no_end(results, age, said):
    folder = results.fold(checkpoint="latest")
    log_of(folder, age=age)
    assert told(folder)[0].startswith(said)


def test_a_training_without_validation_is_told_how_to_validate(results):
    (sentence,) = told(results.fold())
    assert "not validated" in sentence and "--val" in sentence


@pytest.mark.parametrize(
    ("curve", "values", "word"),
    [
        ("error_over_harmonic_vit", [0.8, 1.2], "1.2 times that of harmonic inpainting"),
        ("points_over_constant_partner", [0.5, 3.0], "The partner places crops no better"),
        ("topology_pull_vit", [0.2, 0.004], "reconstruction does. NNUNET_TOPOMAE_WEIGHT_TOPOLOGY can"),
        ("vit_token_std", [0.6, 0.01], "The ViT says the same everywhere"),
        ("vit_label_share", [0.2, 0.001], "The ViT decides 0.1% of the labels"),
        ("train_losses", [1.0, 2.0], "The training loss has not fallen: 1 at first, 2 at last"),
        ("val_losses", [1.0, float("nan")], "The validation loss has become nan, from epoch 2 on"),
    ],
)
def test_what_is_no_better_than_trivial_is_said(results, curve, values, word):
    folder = results.pretraining()
    assert told(folder) == []
    folder = results.fold("TopoMAEPretrainer", logging={"train_reconstruction_vit": [1, 1], curve: values}, fold=1)
    assert sum(word in sentence for sentence in told(folder)) == 1


def test_a_class_that_is_never_found_and_one_that_is_nowhere(results):
    summary = results.summary(results.segmentation(), {"a": {"1": 0.0, "2": 0.5}, "b": {"1": 0.0, "2": 0.25}})
    assert told(summary.parents[1]) == ["liver is never found: Dice 0 in all of 2 cases."]
    results.summary(summary.parents[1], {"a": {"1": float("nan"), "2": float("nan")}})
    assert told(summary.parents[1]) == ["Dice is nowhere defined: 1 case, no class in reference or prediction."]


def test_what_several_folds_have_in_common_is_said_once(results):
    for fold in (0, 1, "all"):
        results.segmentation(fold=fold)
    results.fold(fold=2)
    (model,) = models_of(read_runs([results.dataset]))
    one, other = sorted(model.findings(NOW))
    assert one.startswith("fold 2: ") and "not validated" in one
    assert other.startswith("fold all: ") and "was trained on" in other

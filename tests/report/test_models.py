"""Folds taken together, and trainers beside each other."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from nnunet_topomae.report.models import comparisons, models_of, result
from nnunet_topomae.report.runs import read_runs

SCORES = np.random.default_rng(0).uniform(0.5, 0.8, 12)


def dice(values, first=0) -> dict[str, dict[str, float]]:
    return {f"case_{first + index:02d}": {"1": float(value), "2": 0.5} for index, value in enumerate(values)}


@pytest.fixture
def trained(results):
    """Writes a fold whose cases have a Dice of class 1 as given, and 0.5 of class 2."""

    def train(trainer: str, values, fold=0, first=0):
        results.summary(results.segmentation(trainer, fold=fold), dice(values, first))

    return train


def models(results):
    return {model.first.trainer: model for model in models_of(read_runs([results.dataset]))}


def test_a_result_is_the_mean_over_the_cases_of_all_folds(results, trained):
    trained("nnUNetTrainer", SCORES[:5])
    trained("nnUNetTrainer", SCORES[5:], fold=1, first=5)
    means = (SCORES + 0.5) / 2
    expected = f"Dice {means.mean():.3f} ± {means.std(ddof=1):.3f} over 12 cases"
    assert result(models(results)["nnUNetTrainer"]) == expected


def test_fold_all_beside_others_does_not_count(results, trained):
    trained("A", [0.7])
    trained("A", [1.0] * 5, fold="all")
    assert result(models(results)["A"]) == "Dice 0.600 over 1 case"


def test_a_model_of_fold_all_alone_is_compared_with_none(results, trained):
    trained("TopoMAEFinetuner", SCORES + 0.1, fold="all")
    trained("nnUNetTrainer", SCORES)
    assert comparisons(list(models(results).values())) == []


def test_cases_without_a_class_are_no_missing_validation(results):
    results.summary(results.segmentation(), {"a": {"1": float("nan")}, "b": {"1": float("nan")}})
    assert result(models(results)["nnUNetTrainer"]) == "Dice not defined: no class in any of 2 cases"
    results.fold("TopoMAEFinetuner")
    assert result(models(results)["TopoMAEFinetuner"]) == "no validation"


def test_pretraining_is_compared_with_every_training_without(results, trained):
    gain = np.linspace(0.02, 0.06, 12)
    trained("TopoMAEFinetuner", SCORES + gain)
    trained("TopoMAEFinetunerFromScratch", SCORES)
    trained("nnUNetTrainer", SCORES[:10] + 0.2)
    scratch, nnunet = comparisons(list(models(results).values()))
    assert scratch.question == "Was pre-training worth it? B TopoMAEFinetuner beside A TopoMAEFinetunerFromScratch"
    assert scratch.verdict == "better" and len(scratch.overall.cases) == 12
    assert scratch.overall.mean == pytest.approx(gain.mean() / 2)  # of both classes, one of which is the same
    assert scratch.overall.p == pytest.approx(wilcoxon(gain).pvalue)
    assert [(row.name, round(row.mean, 6)) for row in scratch.classes] == [
        ("liver", round(gain.mean(), 6)), ("tumour <b>&", 0)
    ]  # fmt: skip
    assert nnunet.verdict == "worse" and len(nnunet.overall.cases) == 10


@pytest.mark.parametrize(("change", "too_few"), [(np.tile([0.01, -0.01], 6), False), ([0.1] * 5 + [0.0] * 7, True)])
def test_a_difference_that_may_be_chance_is_none(results, trained, change, too_few):
    trained("TopoMAEFinetuner", SCORES + change)
    trained("nnUNetTrainer", SCORES)
    (compared,) = comparisons(list(models(results).values()))
    assert compared.verdict == "no difference is shown" and compared.too_few == too_few


def test_trainers_without_a_common_case_are_not_compared(results, trained):
    trained("TopoMAEFinetuner", SCORES)
    trained("nnUNetTrainer", SCORES, first=20)
    assert comparisons(list(models(results).values())) == []


def test_a_trainer_whose_log_names_pretrained_weights_is_pretrained(results, trained):
    trained("Theirs", SCORES)
    assert not models(results)["Theirs"].is_pretrained
    log = results.dataset / "Theirs__nnUNetPlans__3d_fullres" / "fold_0" / "training_log_1.txt"
    log.write_text("2026-11-30 10:00:00.1: Pre-trained weights: /a/b.pth\n")
    assert models(results)["Theirs"].is_pretrained

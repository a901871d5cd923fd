"""Folds of one trainer taken together, and trainers beside each other: was pre-training worth it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from math import isfinite, isnan, nan
from statistics import fmean, stdev
from typing import Any, NamedTuple

from nnunet_topomae.evaluation.comparison import MEAN, SIGNIFICANT, PairedDifference, compare
from nnunet_topomae.evaluation.segmentation import MEASURES
from nnunet_topomae.report.health import findings
from nnunet_topomae.report.runs import NETWORKS, Metrics, Run
from nnunet_topomae.report.words import counted

COUNTS = ("TP", "FP", "FN", "TN", "n_pred", "n_ref")  # of nnU-Net's summary.json


@dataclass(frozen=True)
class Model:
    """Folds that share trainer, plans and configuration, as nnU-Net's results folder of them does."""

    runs: Sequence[Run]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def letter(self) -> str:
        return self.first.letter.removesuffix(self.first.fold) if len(self.runs) > 1 else self.first.letter

    @property
    def name(self) -> str:
        return f"{self.letter} {self.first.trainer}"

    @property
    def is_pretrained(self) -> bool:
        """Whether it began with weights of a pre-training."""
        trainer = self.first.trainer
        ours = trainer.startswith("TopoMAEFinetuner") and "FromScratch" not in trainer
        return ours or any(run.log.pretrained for run in self.runs)

    @property
    def cases(self) -> dict[str, Metrics]:
        """Metrics of every segmented case by key; of folds beside fold all, which saw its cases, without that one."""
        return {name: run.validation.cases[name] for run in self.held_out or self.runs for name in run.validation.files}

    @property
    def held_out(self) -> list[Run]:
        return [run for run in self.runs if run.fold != "all"]

    @property
    def is_tested(self) -> bool:
        """Whether it has segmented a case that it was not trained on."""
        return any(run.validation.files for run in self.held_out)

    def findings(self, now: datetime) -> list[str]:
        """Of all folds, what is the same once, with the folds of which it is so where there are several."""
        told: dict[str, list[str]] = {}
        for run in self.runs:
            for text in findings(run, now):
                told.setdefault(text, []).append(run.fold)
        if len(self.runs) == 1:
            return list(told)
        return [f"fold{'s' if len(folds) > 1 else ''} {', '.join(folds)}: {text}" for text, folds in told.items()]


def models_of(runs: Sequence[Run]) -> list[Model]:
    """In the order of their first folds."""
    numbers = dict.fromkeys(run.model for run in runs)
    return [Model([run for run in runs if run.model == number]) for number in numbers]


def mean_dice(metrics: Metrics) -> float:
    """Over the classes that reference or prediction have; NaN without one."""
    defined = [v["Dice"] for key, v in metrics.items() if key != "0" and isfinite(v.get("Dice", nan))]
    return fmean(defined) if defined else nan


def result(model: Model) -> str:
    """In words: mean ± standard deviation of Dice over the cases, or the mean error of a pre-training's folds."""
    if not (cases := model.cases):
        said = []
        for key, name in NETWORKS.items():
            errors = [run.validation.mean.get(key, {}).get("masked_mse", nan) for run in model.runs]
            if defined := [error for error in errors if isfinite(error)]:
                said.append(f"{fmean(defined):.4g} {name}")
        return f"masked MSE {', '.join(said)}" if said else "no validation"
    dice = [value for value in map(mean_dice, cases.values()) if not isnan(value)]
    if not dice:
        return f"Dice not defined: no class in any of {counted(len(cases))}"
    spread = f" ± {stdev(dice):.3f}" if len(dice) > 1 else ""
    return f"Dice {fmean(dice):.3f}{spread} over {counted(len(dice))}"


class Comparison(NamedTuple):
    """Paired differences of Dice, `other` − `baseline`: of the mean over classes, or of the only one, and of each."""

    baseline: Model
    other: Model
    overall: PairedDifference
    classes: Sequence[PairedDifference]

    @property
    def verdict(self) -> str:
        """In a word, by the test of `nnunet-topomae evaluate`."""
        if self.overall.is_decided:
            return "better" if self.overall.mean > 0 else "worse"
        return "no difference is shown"

    @property
    def too_few(self) -> bool:
        """Whether no difference between so many cases could be told from chance."""
        return self.overall.p_least >= SIGNIFICANT

    @property
    def question(self) -> str:
        asked = self.other.is_pretrained and not self.baseline.is_pretrained
        return f"{'Was pre-training worth it? ' if asked else ''}{self.other.name} beside {self.baseline.name}"


def comparisons(models: Sequence[Model]) -> list[Comparison]:
    """Each pre-trained model beside each that is not, on one dataset; without both kinds all beside the first.

    A model of fold all alone was trained on its cases and is left out.
    """
    compared = []
    for dataset in dict.fromkeys(model.first.dataset for model in models):
        segmented = [model for model in models if model.first.dataset == dataset and model.is_tested]
        pretrained = [model for model in segmented if model.is_pretrained]
        others = [model for model in segmented if not model.is_pretrained]
        pairs = product(others, pretrained) if others and pretrained else product(segmented[:1], segmented[1:])
        compared += [found for pair in pairs if (found := _compare(*pair)) is not None]
    return compared


def _compare(baseline: Model, other: Model) -> Comparison | None:
    """On the cases and classes that both have; None without one."""
    cases = {model.name: model.cases for model in (baseline, other)}
    shared = sorted(baseline.cases.keys() & other.cases.keys())
    of_cases = [of_model[case] for of_model in cases.values() for case in shared]
    keys = [key for key in dict.fromkeys(key for keys in of_cases for key in keys) if all(key in k for k in of_cases)]
    if not keys:
        return None
    names = baseline.first.class_names
    rows = compare({name: _summary(of_model, shared, keys, names) for name, of_model in cases.items()})
    overall = next((row for row in rows if row.label == MEAN), rows[0])
    return Comparison(baseline, other, overall, [row for row in rows if row is not overall])


def _summary(
    metrics: Mapping[str, Metrics], cases: Sequence[str], keys: Sequence[str], names: Mapping[str, str]
) -> dict[str, Any]:
    """As `evaluate_folder` makes it; measures that nnU-Net does not have are NaN."""
    unknown = dict.fromkeys((*MEASURES, *COUNTS), nan)
    entries = [
        {"reference_file": case, "metrics": {key: unknown | dict(metrics[case][key]) for key in keys}} for case in cases
    ]
    return {
        "metric_per_case": entries,
        "mean": {key: {} for key in keys},
        "definitions": {"Dice": {}},
        "label_names": {key: names.get(key, key) for key in keys},
    }

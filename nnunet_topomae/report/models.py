"""Folds of one trainer taken together, and trainers beside each other: was pre-training worth it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from math import isfinite, isnan, nan
from statistics import fmean, pstdev, stdev
from typing import Any, NamedTuple

from nnunet_topomae.evaluation.comparison import MEAN, SIGNIFICANT, PairedDifference, compare
from nnunet_topomae.evaluation.segmentation import MEASURES
from nnunet_topomae.report.health import class_names, findings
from nnunet_topomae.report.lenient import counted
from nnunet_topomae.report.runs import COUNTS, NETWORKS, Run

MOST_PAIRS = 12
Metrics = Mapping[str, Mapping[str, float]]  # by key


class Finding(NamedTuple):
    """What is not right, and the folds of which it is so; empty where a model has one fold alone."""

    text: str
    folds: str


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
    def folds(self) -> str:
        return ", ".join(run.fold for run in self.runs)

    @property
    def is_pretrained(self) -> bool:
        """Whether it began with weights of a pre-training."""
        trainer = self.first.trainer
        ours = trainer.startswith("TopoMAEFinetuner") and "FromScratch" not in trainer
        return ours or any(run.log.pretrained for run in self.runs)

    @property
    def cases(self) -> dict[str, Metrics]:
        """Metrics of every segmented case by key; of folds beside fold all, which saw its cases, without that one."""
        held_out = [run for run in self.runs if run.fold != "all"] or self.runs
        return {name: run.cases[name] for run in held_out for name in run.files}

    def findings(self, now: datetime) -> list[Finding]:
        """Of all folds, what is the same once."""
        told: dict[str, list[str]] = {}
        for run in self.runs:
            for text in findings(run, now):
                told.setdefault(text, []).append(run.fold)
        several = len(self.runs) > 1
        return [
            Finding(text, f"fold{'s' if len(folds) > 1 else ''} {', '.join(folds)}: " if several else "")
            for text, folds in told.items()
        ]


def models_of(runs: Sequence[Run]) -> list[Model]:
    """In the order of their first folds."""
    numbers = dict.fromkeys(run.model for run in runs)
    return [Model([run for run in runs if run.model == number]) for number in numbers]


def mean_dice(metrics: Metrics) -> float:
    """Over the classes that reference or prediction have; NaN without one."""
    defined = [v["Dice"] for key, v in metrics.items() if key != "0" and isfinite(v.get("Dice", nan))]
    return fmean(defined) if defined else nan


def result(model: Model, beside: Sequence[Model] = ()) -> str:
    """In words: mean ± standard deviation over the cases that it and `beside` have, or over its own where none is."""
    own = model.cases
    if not own:
        return _reconstruction(model)
    shared = set(own).intersection(*(other.cases for other in beside))
    dice = [mean_dice(own[case]) for case in shared or own]
    defined = [value for value in dice if not isnan(value)]
    if not defined:
        return f"Dice not defined: no class in any of {counted(len(own))}"
    spread = f" ± {stdev(defined):.3f}" if len(defined) > 1 else ""
    which = counted(len(defined))
    if not shared:
        which += "; the trainers have no case in common, so that these means cannot be compared"
    elif len(shared) < len(own) or any(len(shared) < len(other.cases) for other in beside):
        which = f"the {counted(len(defined))} that all have, of {len(own)}"
    return f"Dice {fmean(defined):.3f}{spread} over {which}"


def _reconstruction(model: Model) -> str:
    """Mean of the folds' means."""
    parts = []
    for key, name in NETWORKS.items():
        errors = [run.mean.get(key, {}).get("masked_mse", nan) for run in model.runs]
        errors = [error for error in errors if isfinite(error)]
        if errors:
            spread = f" ± {pstdev(errors):.2g}" if len(errors) > 1 else ""
            parts.append(f"{fmean(errors):.4g}{spread} {name}")
    return f"masked MSE {', '.join(parts)}" if parts else "no validation"


class Comparison(NamedTuple):
    """Paired differences of Dice, `other` − `baseline`.

    Attributes:
        overall: of the mean over classes, or of the only class.
        classes: each by itself.
        own: number of cases that each has, where that is more than both have; else empty.
    """

    baseline: Model
    other: Model
    overall: PairedDifference
    classes: Sequence[PairedDifference]
    own: str

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
        if self.other.is_pretrained and not self.baseline.is_pretrained:
            return f"Was pre-training worth it? {self.other.name} beside {self.baseline.name}"
        return f"{self.other.name} beside {self.baseline.name}"


def comparisons(models: Sequence[Model]) -> list[Comparison]:
    """Each pre-trained model beside each that is not, on one dataset; without both kinds all beside the first."""
    compared = []
    for dataset in dict.fromkeys(model.first.dataset for model in models):
        segmented = [model for model in models if model.first.dataset == dataset and model.cases]
        pretrained = [model for model in segmented if model.is_pretrained]
        others = [model for model in segmented if not model.is_pretrained]
        pairs = product(others, pretrained) if others and pretrained else product(segmented[:1], segmented[1:])
        compared += [found for pair in pairs if (found := _compare(*pair)) is not None]
    return compared[:MOST_PAIRS]


def _compare(baseline: Model, other: Model) -> Comparison | None:
    """On the cases that both have; None without one."""
    shared = sorted(set(baseline.cases) & set(other.cases))
    keys = [
        key
        for key in dict.fromkeys(key for case in shared for key in baseline.cases[case])
        if all(key in model.cases[case] for model in (baseline, other) for case in shared)
    ]
    if not shared or not keys:
        return None
    summaries = {model.name: _summary(model, shared, keys) for model in (baseline, other)}
    rows = compare(summaries)
    overall = next((row for row in rows if row.label == MEAN), rows[0])
    own = {model.name: len(model.cases) for model in (baseline, other) if len(model.cases) > len(shared)}
    said = ", ".join(f"{name} has {count}" for name, count in own.items())
    return Comparison(baseline, other, overall, [row for row in rows if row is not overall], said)


def _summary(model: Model, cases: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """As `evaluate_folder` makes it; measures that nnU-Net does not have are NaN."""
    unknown = dict.fromkeys((*MEASURES, *COUNTS), nan)
    names = class_names(model.first)
    return {
        "metric_per_case": [
            {
                "reference_file": case,
                "prediction_file": case,
                "metrics": {key: unknown | dict(model.cases[case][key]) for key in keys},
            }
            for case in cases
        ],
        "mean": {key: {} for key in keys},
        "definitions": {"Dice": {}},
        "label_names": {key: names.get(key, key) for key in keys},
    }

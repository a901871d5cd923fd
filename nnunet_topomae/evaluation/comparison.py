"""Several predictions of the same cases: paired differences by class, with tests and intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap, rankdata, wilcoxon

from nnunet_topomae.evaluation.folder import Summary, case_status
from nnunet_topomae.evaluation.segmentation import MEASURES

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
MEAN = "mean"
PENALISED = "mean_with_inventions"
NAMES = {MEAN: "mean", PENALISED: "mean with inventions"}
CONFIDENCE, SIGNIFICANT = 0.95, 0.05
MIN_CASES = 8  # for an interval: below, one that is called 95 % covers the mean in fewer than 9 of 10 cases
MAX_EXACT = 1000  # cases; the exact distribution of ranks takes time with the cube of their number
ROUNDING = 1e-9  # of the largest value: smaller differences are none, as equal values that were added in another order


@dataclass(frozen=True)
class PairedDifference:
    """Of one measure and class between two folders of predictions.

    Attributes:
        label: key of summary.json; `MEAN` for the mean over the classes that are defined in both folders, `PENALISED`
            for that over the classes that are defined in one of them: whoever rightly left out what the other has
            invented has the best value there is.
        cases: that are defined in both.
        differences: [cases], other − baseline.
        left_out: cases with a class that is defined in one alone: the reference is empty, and one of both has invented
            it. The means are over their other classes.
        low, high: 95 % interval of the mean difference, by bootstrap over cases; NaN for fewer than `MIN_CASES`.
        p: see `signed_rank_p`.
        p_least: the least p that so many cases which differ allow.
        p_holm: corrected by Holm's method for all classes and folders of the measure.
    """

    measure: str
    label: str
    name: str
    baseline: str
    other: str
    cases: list[str]
    differences: Values
    left_out: list[str]
    low: float
    high: float
    p: float
    p_least: float
    p_holm: float = math.nan

    @property
    def mean(self) -> float:
        return float(self.differences.mean()) if len(self.differences) else math.nan

    @property
    def is_decided(self) -> bool:
        """Holm's p and the interval, where there is one, agree that the folders differ."""
        return self.p_holm < SIGNIFICANT and not self.low <= 0 <= self.high

    def as_row(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {
            "measure": self.measure,
            "label": self.label,
            "name": self.name,
            "baseline": self.baseline,
            "other": self.other,
            "mean_difference": self.mean,
            "interval_95": [self.low, self.high],
            "p_wilcoxon": self.p,
            "p_least": self.p_least,
            "p_holm": self.p_holm,
            "cases": len(self.cases),
            "left_out": self.left_out,
            "differences": dict(zip(self.cases, self.differences.tolist(), strict=True)),
        }


def compare(summaries: Mapping[str, Summary], seed: int = 0) -> list[PairedDifference]:
    """Every folder beside the first one, by measure and class, and for the mean over classes.

    Args:
        summaries: by name of the folder; the first is the baseline.
        seed: of the bootstrap.

    Raises:
        ValueError: the folders do not hold the same cases.
    """
    (baseline, first), *others = summaries.items()
    cases = _cases(first)
    for name, summary in others:
        if _cases(summary) != cases:
            differing = sorted(set(cases) ^ set(_cases(summary)))
            raise ValueError(f"{baseline} and {name} do not hold the same cases: {', '.join(differing)}")
    rng = np.random.default_rng(seed)
    compared = []
    for measure in first["definitions"]:
        rows = []
        for other, summary in others:
            for label, pairs in _paired_values(first, summary, measure).items():
                name = (first["label_names"] | NAMES)[label]
                rows.append(_difference(measure, label, name, baseline, other, cases, pairs, rng))
        compared += [replace(row, p_holm=p) for row, p in zip(rows, holm([row.p for row in rows]), strict=True)]
    return compared


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected by Holm (1979), "A simple sequentially rejective multiple test procedure"; NaN stays NaN."""
    p = np.asarray(p_values, float)
    defined = np.flatnonzero(~np.isnan(p))
    order = defined[np.argsort(p[defined])]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected = np.full(len(p), math.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def folder_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart. Raises ValueError where a folder is named twice."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ValueError("a folder of predictions is named twice")
    length = next(n for n in range(1, max(map(len, parts)) + 1) if len({p[-n:] for p in parts}) == len(parts))
    return ["/".join(p[-length:]) for p in parts]


def _cases(summary: Summary) -> list[str]:
    return [Path(case["reference_file"]).name for case in summary["metric_per_case"]]


class _Pairs(NamedTuple):
    """Values of both folders, [2, cases], NaN where one is not defined, and where there is an invention."""

    values: Values
    left_out: Flags


def _paired_values(first: Summary, second: Summary, measure: str) -> dict[str, _Pairs]:
    """By class; the mean over classes; and that with inventions, where there are some."""
    labels = list(first["mean"])
    of_both = [_values(summary, labels, measure) for summary in (first, second)]
    values, absent = (np.stack(part) for part in zip(*of_both, strict=True))  # [2, classes, cases]
    rows = {label: _mean_over_classes(values[:, [n]]) for n, label in enumerate(labels)}
    foreground = [label != "0" for label in labels]
    values, absent = values[:, foreground], absent[:, foreground]
    if len(labels) > 1:
        rows[MEAN] = _mean_over_classes(values)
    invented = absent[0] ^ absent[1]
    if invented.any():
        best = 1.0 if MEASURES[measure].more_is_better else 0.0
        rows[PENALISED] = _mean_over_classes(np.where(absent & invented, best, values))
    return rows


def _values(summary: Summary, labels: Sequence[str], measure: str) -> tuple[Values, Flags]:
    """[classes, cases], and where both masks are empty."""
    metrics = [[case["metrics"][label] for case in summary["metric_per_case"]] for label in labels]
    values = [[of_case[measure] for of_case in of_class] for of_class in metrics]
    absent = [[case_status(of_case) == "both_empty" for of_case in of_class] for of_class in metrics]
    return np.array(values, float), np.array(absent)


def _mean_over_classes(values: Values) -> _Pairs:
    """Of values [2, classes, cases], over the classes defined in both."""
    undefined = np.isnan(values)
    mask = np.broadcast_to(undefined.any(axis=0), values.shape)
    means = np.ma.array(values, mask=mask).mean(axis=1).filled(np.nan)
    return _Pairs(means, (undefined[0] ^ undefined[1]).any(axis=0))


def _difference(
    measure: str,
    label: str,
    name: str,
    baseline: str,
    other: str,
    cases: Sequence[str],
    pairs: _Pairs,
    rng: np.random.Generator,
) -> PairedDifference:
    theirs, ours = pairs.values
    both = ~(np.isnan(theirs) | np.isnan(ours))
    differences = ours[both] - theirs[both]
    differences[np.abs(differences) <= ROUNDING * np.abs(pairs.values[:, both]).max(initial=0)] = 0
    low, high = _interval(differences, rng)
    return PairedDifference(
        *(measure, label, name, baseline, other),
        cases=list(compress(cases, both)),
        differences=differences,
        left_out=list(compress(cases, pairs.left_out)),
        low=low,
        high=high,
        p=signed_rank_p(differences),
        p_least=2.0 ** min(0, 1 - np.count_nonzero(differences)),
    )


def _interval(differences: Values, rng: np.random.Generator) -> tuple[float, float]:
    """Bias-corrected and accelerated (BCa) interval of the mean."""
    if len(differences) < MIN_CASES:
        return math.nan, math.nan
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    interval = bootstrap((differences,), np.mean, confidence_level=CONFIDENCE, random_state=rng).confidence_interval
    return float(interval.low), float(interval.high)


def signed_rank_p(differences: Values) -> float:
    """Two-sided p of the Wilcoxon signed-rank test: exact, over all flips of signs.

    Zeros are dropped first (Wilcoxon, 1945), ties have the mean of their ranks. 1 where nothing differs; NaN without
    a case. Of more than `MAX_EXACT` differences by the normal approximation.

    Args:
        differences: [cases].
    """
    if not len(differences):
        return math.nan
    differing = differences[differences != 0]
    if len(differing) > MAX_EXACT:
        return float(wilcoxon(differing, method="asymptotic").pvalue)
    sizes = np.abs(differing)
    ranks = np.rint(2 * rankdata(np.round(sizes / sizes.max(initial=1e-300), 9))).astype(int)  # twice, to be whole
    smaller = min(ranks[differing > 0].sum(), ranks[differing < 0].sum())
    chances = np.zeros(smaller + 1)  # of each sum of the ranks of one sign, up to the smaller one
    chances[0] = 1
    for rank in ranks:
        chances[rank:] += chances[: max(len(chances) - rank, 0)]
        chances /= 2
    return min(1.0, 2 * float(chances.sum()))

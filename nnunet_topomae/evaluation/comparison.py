"""Several predictions of the same cases: paired differences by class, with tests and intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap, wilcoxon

from nnunet_topomae.evaluation.folder import Summary
from nnunet_topomae.evaluation.segmentation import MEASURES

MEAN = "mean"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Of one measure and class between two folders of predictions.

    Attributes:
        label: key of summary.json; "mean" for the mean over the classes that are defined in both.
        cases: that are defined in both.
        differences: [cases], other − baseline.
        left_out: cases defined in one alone: the reference is empty, and one of both has invented the class.
        low, high: 95 % interval of the mean difference, by bootstrap over cases.
        p: of the Wilcoxon signed-rank test, two-sided.
        p_holm: corrected by Holm's method for all classes and folders of the measure.
    """

    measure: str
    label: str
    name: str
    baseline: str
    other: str
    cases: list[str]
    differences: np.ndarray
    left_out: list[str]
    low: float
    high: float
    p: float
    p_holm: float = math.nan

    @property
    def mean(self) -> float:
        return float(self.differences.mean()) if len(self.differences) else math.nan

    def as_row(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "measure": self.measure,
            "label": self.label,
            "name": self.name,
            "baseline": self.baseline,
            "other": self.other,
            "mean_difference": self.mean,
            "interval_95": [self.low, self.high],
            "p_wilcoxon": self.p,
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
    for measure in MEASURES:
        rows = []
        for other, summary in others:
            values = {
                label: (_values(first, label, measure), _values(summary, label, measure)) for label in first["mean"]
            }
            if len(values) > 1:
                values[MEAN] = _means_over_classes([pair for label, pair in values.items() if label != "0"])
            for label, (theirs, ours) in values.items():
                name = first["label_names"].get(label, label)
                rows.append(_difference(measure, label, name, baseline, other, cases, theirs, ours, rng))
        compared += [replace(row, p_holm=p) for row, p in zip(rows, holm([row.p for row in rows]), strict=True)]
    return compared


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected by Holm (1979), "A simple sequentially rejective multiple test procedure"; NaN stays NaN."""
    p_values = np.asarray(p_values, float)
    defined = np.flatnonzero(~np.isnan(p_values))
    order = defined[np.argsort(p_values[defined])]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected = np.full(len(p_values), math.nan)
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


def _values(summary: Summary, label: str, measure: str) -> np.ndarray:
    return np.array([case["metrics"][label][measure] for case in summary["metric_per_case"]], float)


def _means_over_classes(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """[cases] of both folders, over the classes defined in both."""
    theirs, ours = (np.ma.masked_invalid([pair[side] for pair in pairs]) for side in (0, 1))
    either = theirs.mask | ours.mask
    return tuple(np.ma.array(values.data, mask=either).mean(axis=0).filled(np.nan) for values in (theirs, ours))


def _difference(
    measure: str,
    label: str,
    name: str,
    baseline: str,
    other: str,
    cases: Sequence[str],
    theirs: np.ndarray,
    ours: np.ndarray,
    rng: np.random.Generator,
) -> PairedDifference:
    both = ~(np.isnan(theirs) | np.isnan(ours))
    one = np.isnan(theirs) ^ np.isnan(ours)
    differences = ours[both] - theirs[both]
    return PairedDifference(
        *(measure, label, name, baseline, other),
        cases=[case for case, use in zip(cases, both, strict=True) if use],
        differences=differences,
        left_out=[case for case, use in zip(cases, one, strict=True) if use],
        **dict(zip(("low", "high"), _interval(differences, rng), strict=True)),
        p=_p_value(differences),
    )


def _interval(differences: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Bias-corrected and accelerated (BCa) interval of the mean; NaN for fewer than two cases."""
    if len(differences) < 2:
        return math.nan, math.nan
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    interval = bootstrap((differences,), np.mean, confidence_level=CONFIDENCE, random_state=rng).confidence_interval
    return float(interval.low), float(interval.high)


def _p_value(differences: np.ndarray) -> float:
    """1 where nothing differs; NaN without a case."""
    if not len(differences):
        return math.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0

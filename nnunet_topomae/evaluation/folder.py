"""A folder of predicted segmentations beside the folder of their references, in nnU-Net's layout of summary.json."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import label_or_region_to_key
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing,
    remove_all_but_largest_component_from_segmentation,
)

from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.evaluation.label_map import read_label_map
from nnunet_topomae.evaluation.pairs import Folder, Pair
from nnunet_topomae.evaluation.segmentation import Label, chosen_measures, segmentation_metrics
from nnunet_topomae.processes import in_processes

Summary = dict[str, Any]
COUNTS = ("both_empty", "missed", "invented", "hidden")
LARGEST, LARGEST_OF = "largest_component", "largest_component_of"


def evaluate_folder(
    folder: Folder,
    classes: Classes,
    num_processes: int = 1,
    on_demand: Collection[str] = (),
    largest_component: Sequence[Label] = (),
) -> Summary:
    """`evaluate_folders` of a single one."""
    name = folder.predictions.name
    return evaluate_folders({name: folder}, classes, num_processes, on_demand, largest_component)[name]


def evaluate_folders(
    folders: Mapping[str, Folder],
    classes: Classes,
    num_processes: int = 1,
    on_demand: Collection[str] = (),
    largest_component: Sequence[Label] = (),
) -> dict[str, Summary]:
    """Measure all cases; what nnU-Net's summary.json holds, with labels as its keys are written.

    Beside nnU-Net's own keys stand `MEASURES`, in `mean` and `foreground_mean` the numbers `COUNTS` of cases, too.
    Further keys stand there only where there is something to tell: `partial`, why each of the other cases could not be
    measured (in one of the folders: all summaries are of the same cases); `notes` on the files; `values_not_measured`,
    in how many files other values were found, where nobody said which there may be; `largest_component`, a summary of
    the same predictions after nnU-Net's post-processing.

    Args:
        on_demand: measures of `ON_DEMAND` that are wanted.
        largest_component: labels and regions of which, one after the other, all but the largest component is removed.

    Raises:
        ValueError: no case can be measured, or a measure is unknown.
    """
    chosen_measures(on_demand)  # or an error before the work
    faults = [fault for folder in folders.values() for fault in folder.bad.items()]
    unusable = dict(faults)
    tasks = {
        (name, pair.name): (pair, classes, folder.reader, on_demand, largest_component)
        for name, folder in folders.items()
        for pair in folder.pairs
        if pair.name not in unusable
    }
    outcomes: dict[tuple[str, str], _Measured | str] = {}
    try:
        for key, outcome in in_processes(_outcome, tasks, num_processes, "Measuring"):
            outcomes[key] = outcome
    except RuntimeError as error:  # what is measured is kept
        for name, case in tasks.keys() - outcomes.keys():
            outcomes[name, case] = f"{case} was not measured: {error}"
    faults += [(case, outcome) for (_, case), outcome in outcomes.items() if isinstance(outcome, str)]
    bad = {name: "; ".join(dict.fromkeys(fault for case, fault in faults if case == name)) for name in dict(faults)}
    summaries = {}
    for name, folder in folders.items():
        measured = {
            pair: outcome
            for pair in folder.pairs
            if pair.name not in bad and isinstance(outcome := outcomes[name, pair.name], _Measured)
        }
        if not measured:
            raise ValueError(f"none of {len(bad)} cases can be measured: {'; '.join(bad.values())}")
        strangers = Counter(value for of_case in measured.values() for value in of_case.strangers)
        remarks = {
            "partial": dict(sorted(bad.items())),
            "notes": folder.notes,
            "values_not_measured": {str(value): count for value, count in sorted(strangers.items())},
        }
        told = {key: value for key, value in remarks.items() if value}
        files = [{"reference_file": str(pair.reference), "prediction_file": str(pair.prediction)} for pair in measured]
        versions = [
            [of_case | {"metrics": measures} for of_case, measures in zip(files, of_version, strict=True)]
            for of_version in zip(*(of_case.metrics for of_case in measured.values()), strict=True)
        ]
        summaries[name], *after = (told | summarise(cases, classes, folder.units, on_demand) for cases in versions)
        for summary in after:
            kept_of = [classes.names.get(label, label_or_region_to_key(label)) for label in largest_component]
            summaries[name][LARGEST] = summary | {LARGEST_OF: kept_of}
    return summaries


def summarise(
    cases: Sequence[dict[str, Any]], classes: Classes, units: Mapping[str, str], on_demand: Collection[str] = ()
) -> Summary:
    """`metric_per_case`, `mean` and `foreground_mean` as nnU-Net's, and what the numbers mean."""
    keys = {label: label_or_region_to_key(label) for label in classes.names}
    mean = {keys[label]: _mean_of_label([case["metrics"][label] for case in cases]) for label in keys}
    foreground = [mean[key] for label, key in keys.items() if label != 0]
    return {
        "metric_per_case": [
            case | {"metrics": {keys[label]: metrics for label, metrics in case["metrics"].items()}} for case in cases
        ],
        "mean": mean,
        "foreground_mean": _mean_of_classes(foreground),
        "definitions": definitions(units, on_demand),
        "label_names": {keys[label]: name for label, name in classes.names.items()},
    }


def definitions(units: Mapping[str, str], on_demand: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """Of each measure: definition, unit and what becomes of empty masks."""
    return {
        name: {
            "definition": measure.definition.replace("mm", units["length"]),
            "unit": units[measure.kind],
            "one mask empty": measure.one_empty,
            "both masks empty": "NaN, not in the mean",
        }
        for name, measure in chosen_measures(on_demand).items()
    }


def case_status(metrics: Mapping[str, float]) -> str:
    """One of `COUNTS`, or nothing where both masks have voxels and surfaces."""
    if not metrics["n_ref"] and not metrics["n_pred"]:
        return "both_empty"
    if not metrics["n_pred"]:
        return "missed"
    if not metrics["n_ref"]:
        return "invented"
    return "hidden" if math.isnan(metrics["HD95"]) or math.isnan(metrics["NSD_1mm"]) else ""


def _mean_of_label(cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    status = [case_status(case) for case in cases]
    return {name: _nanmean([case[name] for case in cases]) for name in cases[0]} | {
        count: status.count(count) for count in COUNTS
    }


def _mean_of_classes(means: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the classes that occur; the counts are sums."""
    if not means:
        return {}
    return {
        name: sum(mean[name] for mean in means) if name in COUNTS else _nanmean([mean[name] for mean in means])
        for name in means[0]
    }


def _nanmean(values: Sequence[float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN
        return float(np.nanmean(values))


class _Measured(NamedTuple):
    """Of a case: its measures, after post-processing too if wanted, and labels of its files that nobody asked for."""

    metrics: list[dict[Label, dict[str, float]]]
    strangers: set[int]


def _outcome(
    pair: Pair,
    classes: Classes,
    reader: type[BaseReaderWriter],
    on_demand: Collection[str],
    largest_component: Sequence[Label],
) -> _Measured | str:
    """Or why the case cannot be measured."""
    maps, faults = [], []
    for file in (pair.reference, pair.prediction):
        try:
            maps.append(read_label_map(file, reader, classes.values))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        return "; ".join(faults)
    reference, prediction = maps
    spacing = pair.spacing or reference.spacing
    predictions = [prediction.labels]
    try:
        if largest_component:
            steps = [{"labels_or_regions": label} for label in largest_component]
            keep = [remove_all_but_largest_component_from_segmentation] * len(steps)
            predictions.append(apply_postprocessing(prediction.labels, keep, steps))
        metrics = [
            segmentation_metrics(labels, reference.labels, classes.names, spacing, classes.ignore_label, on_demand)
            for labels in predictions
        ]
    except (ValueError, MemoryError) as error:
        return f"{pair.prediction}: {str(error) or repr(error)}"
    strangers = set() if classes.values else (reference.present | prediction.present) - classes.measured
    return _Measured(metrics, strangers)

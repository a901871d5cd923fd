"""A folder of predicted segmentations beside the folder of their references, in nnU-Net's layout of summary.json."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import label_or_region_to_key
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from tqdm import tqdm

from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.evaluation.label_map import read_label_map
from nnunet_topomae.evaluation.pairs import Folder, Pair
from nnunet_topomae.evaluation.segmentation import MEASURES, Label, segmentation_metrics

Summary = dict[str, Any]
COUNTS = ("both_empty", "missed", "invented", "hidden")


def evaluate_folder(folder: Folder, classes: Classes, num_processes: int = 1) -> Summary:
    """Measure all cases; what nnU-Net's summary.json holds, with labels as its keys are written.

    Beside nnU-Net's own keys stand `MEASURES`, in `mean` and `foreground_mean` the numbers `COUNTS` of cases, too.

    Raises:
        ValueError: a file cannot be read, or holds what is no label.
        RuntimeError: a process was ended from outside, as systems do when memory is short.
    """
    tasks = [(pair, classes, folder.reader) for pair in folder.pairs]
    measured = _in_processes(tasks, min(num_processes, len(tasks)), folder.predictions.name)
    cases = [
        {"reference_file": str(pair.reference), "prediction_file": str(pair.prediction), "metrics": metrics}
        for pair, metrics in zip(folder.pairs, measured, strict=True)
    ]
    return summarise(cases, classes, folder.units)


def summarise(cases: Sequence[dict[str, Any]], classes: Classes, units: Mapping[str, str]) -> Summary:
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
        "definitions": definitions(units),
        "label_names": {keys[label]: name for label, name in classes.names.items()},
    }


def definitions(units: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Of each measure: definition, unit and what becomes of empty masks."""
    return {
        name: {
            "definition": measure.definition.replace("mm", units["length"]),
            "unit": units[measure.kind],
            "one mask empty": measure.one_empty,
            "both masks empty": "NaN, not in the mean",
        }
        for name, measure in MEASURES.items()
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


def _in_processes(tasks: Sequence[tuple], num_processes: int, title: str) -> list[dict[Label, dict[str, float]]]:
    progress = {"total": len(tasks), "desc": f"Measuring {title}", "unit": "case", "disable": None}
    if num_processes <= 1:
        return [_measure(*task) for task in tqdm(tasks, **progress)]
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        futures = [pool.submit(_measure, *task) for task in tasks]
        try:
            for future in tqdm(as_completed(futures), **progress):
                future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{title}: a process was ended from outside, probably for want of memory: take fewer with -np"
            ) from error
        except BaseException:  # an interruption, too, does not wait for all cases
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _measure(pair: Pair, classes: Classes, reader: type[BaseReaderWriter]) -> dict[Label, dict[str, float]]:
    reference, spacing = read_label_map(pair.reference, reader, classes.values)
    prediction, _ = read_label_map(pair.prediction, reader, classes.values)
    try:
        return segmentation_metrics(prediction, reference, classes.names, pair.spacing or spacing, classes.ignore_label)
    except ValueError as error:
        raise ValueError(f"{pair.prediction}: {error}") from error

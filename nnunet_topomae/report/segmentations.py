"""Validation cases that were segmented worst, with reference and predictions of every run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_topomae.report.runs import Run
from nnunet_topomae.report.strips import as_bytes
from nnunet_topomae.report.viewer import Viewer
from nnunet_topomae.visualization.palette import CLASSES
from nnunet_topomae.visualization.slices import grey_window

MAX_VOXELS = 900_000  # of a case in the page; larger ones are thinned out
MARGIN = 0.2  # around what is labelled, as a part of its size
LARGEST_LABEL = 255

Dice = dict[str, float]


@dataclass(frozen=True)
class SegmentedCase:
    """A validation case and how well each run segmented it.

    Attributes:
        name: identifier.
        dataset: its name.
        dice: of each class, by the run's letter.
        runs: that have it.
    """

    name: str
    dataset: str
    dice: Mapping[str, Dice]
    runs: Sequence[Run]

    @property
    def mean_dice(self) -> dict[str, float]:
        """By the run's letter; NaN where no class is anywhere."""
        return {letter: _mean_dice(dice) for letter, dice in self.dice.items()}

    @property
    def worst(self) -> float:
        """Smallest mean Dice of a run."""
        return min((mean for mean in self.mean_dice.values() if not isnan(mean)), default=nan)


def _mean_dice(dice: Dice) -> float:
    """Over the classes that reference or prediction have."""
    defined = [value for value in dice.values() if not isnan(value)]
    return sum(defined) / len(defined) if defined else nan


def segmented_cases(runs: Sequence[Run]) -> list[SegmentedCase]:
    """Every case of a summary.json of nnU-Net, the worst first."""
    found: dict[tuple[str, str], dict[str, Dice]] = {}
    for run in runs:
        for case, metrics in case_metrics(run).items():
            dice = {name: of_class.get("Dice", nan) for name, of_class in metrics.items()}
            found.setdefault((run.dataset, case), {})[run.letter] = dice
    cases = [
        SegmentedCase(name, dataset, dice, [run for run in runs if run.letter in dice])
        for (dataset, name), dice in found.items()
    ]
    return sorted(cases, key=lambda case: (isnan(case.worst), case.worst, case.name))


def case_metrics(run: Run) -> dict[str, dict[str, dict[str, float]]]:
    """Of a segmentation run's summary: metrics by case and class; empty for what holds none."""
    names = class_names(run)
    return {
        _case_name(entry, run): {names.get(key, key): numbers(values) for key, values in entry["metrics"].items()}
        for entry in _entries(run)
    }


def class_names(run: Run) -> dict[str, str]:
    """Names of labels and regions by their key in nnU-Net's summary.json, such as '1' or '(1, 2)'."""
    foreground = {name: value for name, value in run.labels.items() if name not in ("background", "ignore")}
    return {str(tuple(value) if isinstance(value, list) else value): name for name, value in foreground.items()}


def numbers(values: Mapping) -> dict[str, float]:
    """Those of a summary's values that are numbers; another tool may have put there what it likes."""
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}


def _entries(run: Run) -> list[dict]:
    """Of cases that were segmented."""
    return [e for e in run.summary.get("metric_per_case", ()) if isinstance(e.get("prediction_file"), str)]


def _case_name(entry: Mapping, run: Run) -> str:
    return Path(entry["prediction_file"]).name.removesuffix(run.dataset_json.get("file_ending", ".nii.gz"))


def case_viewer(case: SegmentedCase) -> Viewer:
    """Image, reference and each prediction.

    Raises:
        OSError, RuntimeError: a file cannot be read.
        ValueError: what is missing and where it was looked for.
    """
    first = case.runs[0]
    if "file_ending" not in first.dataset_json:
        raise ValueError(f"{first.name} has no dataset.json that says how its images are stored")
    entry = next(entry for entry in _entries(first) if _case_name(entry, first) == case.name)
    reference_file = _reference_file(entry, case)
    reader = determine_reader_writer_from_dataset_json(first.dataset_json, str(reference_file), verbose=False)()
    reference = reader.read_seg(str(reference_file))[0][0]
    images, properties = reader.read_images([str(file) for file in _image_files(case, first)])
    predictions = {}
    for run in case.runs:
        file = run.folder / "validation" / reference_file.name
        if not file.is_file():
            raise ValueError(f"{run.name} has no {file.parent.name}/{file.name}")
        predictions[run.letter] = reader.read_seg(str(file))[0][0]
    return _viewer(case, images[0], reference, predictions, properties["spacing"])


def _reference_file(entry: Mapping, case: SegmentedCase) -> Path:
    """Where summary.json says, or, on another machine, in this one's nnUNet_preprocessed or nnUNet_raw."""
    said = Path(entry.get("reference_file", entry["prediction_file"]))
    folders = [said.parent]
    for variable, folder in (("nnUNet_preprocessed", "gt_segmentations"), ("nnUNet_raw", "labelsTr")):
        if os.environ.get(variable):
            folders.append(Path(os.environ[variable], case.dataset, folder))
    for folder in folders:
        if (folder / said.name).is_file():
            return folder / said.name
    raise ValueError(f"no reference {said.name} in {', '.join(map(str, folders))}: set nnUNet_preprocessed")


def _image_files(case: SegmentedCase, run: Run) -> Sequence[str]:
    raw = Path(os.environ.get("nnUNet_raw", ""), case.dataset)
    if not os.environ.get("nnUNet_raw") or not raw.is_dir():
        raise ValueError(f"no images of {case.dataset}: set nnUNet_raw to the folder that holds it")
    listed = get_filenames_of_train_images_and_targets(str(raw), dict(run.dataset_json))
    if case.name not in listed or not all(map(os.path.isfile, listed[case.name]["images"])):
        raise ValueError(f"no image of it in {raw}")
    return listed[case.name]["images"]


def _viewer(
    case: SegmentedCase,
    image: np.ndarray,
    reference: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    spacing: Sequence[float],
) -> Viewer:
    maps = [reference, *predictions.values()]
    if any(labels.shape != image.shape for labels in maps):
        raise ValueError(f"image, reference and predictions differ in shape: {[image.shape, *[m.shape for m in maps]]}")
    run = case.runs[0]
    ignore = run.labels.get("ignore", -1)
    foreground = np.any([(labels > 0) & (labels != ignore) for labels in maps], axis=0)
    step = _thinning(_box(foreground), spacing)
    box = tuple(slice(axis.start, axis.stop, s) for axis, s in zip(_box(foreground), step, strict=True))
    image, reference = image[box], reference[box]
    predictions = {letter: labels[box] for letter, labels in predictions.items()}
    if max(labels.max() for labels in (reference, *predictions.values())) > LARGEST_LABEL:
        raise ValueError(f"labels above {LARGEST_LABEL} cannot be shown")

    wrong = sum((labels != reference) & (reference != ignore) for labels in predictions.values())
    start = [int(np.argmax(wrong.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3)]
    if not np.any(wrong):
        start = [side // 2 for side in image.shape]
    present = sorted({int(label) for labels in (reference, *predictions.values()) for label in np.unique(labels)} - {0})
    viewer = Viewer(
        image.shape,
        np.multiply(spacing, step),
        start,
        f"{case.name}: image, reference and predictions",
        colours={label: CLASSES[(label - 1) % len(CLASSES)] for label in present},
        names=_label_names(run, present),
        ignore=int(ignore),
    )
    base = viewer.add_volume("image", as_bytes(image, tuple(grey_window(image).values())))
    truth = viewer.add_volume("reference", reference)
    viewer.add_panel("image", base)
    viewer.add_panel("reference", base, labels=truth)
    for of_run in case.runs:
        labels = viewer.add_volume(of_run.letter, predictions[of_run.letter])
        note = ", ".join(f"{name} {_number(value)}" for name, value in case.dice[of_run.letter].items())
        viewer.add_panel(of_run.name, base, labels=labels, reference=truth, note=f"Dice: {note}")
    return viewer


def _box(foreground: np.ndarray) -> tuple[slice, ...]:
    """The box of what is labelled with a margin; all of the volume where nothing is."""
    if not foreground.any():
        return tuple(slice(0, side) for side in foreground.shape)
    box = []
    for axis, side in enumerate(foreground.shape):
        there = np.flatnonzero(foreground.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = max(4, round(MARGIN * (there[-1] - there[0] + 1)))
        box.append(slice(max(0, int(there[0]) - margin), min(side, int(there[-1]) + 1 + margin)))
    return tuple(box)


def _thinning(box: Sequence[slice], spacing: Sequence[float]) -> list[int]:
    """Every how manieth voxel of each axis is shown: the finest axis is thinned first."""
    sides = np.array([axis.stop - axis.start for axis in box])
    step = np.ones(3, dtype=int)
    while np.prod(-(-sides // step)) > MAX_VOXELS:
        step[np.argmin(np.where(sides > step, np.multiply(spacing, step), np.inf))] += 1
    return step.tolist()


def _label_names(run: Run, labels: Sequence[int]) -> dict[int, str]:
    """A label of regions is named by those that hold it."""
    names = {
        label: [n for n, v in run.labels.items() if v == label or isinstance(v, list) and label in v]
        for label in labels
    }
    return {label: " + ".join(found) or f"label {label}" for label, found in names.items()}


def _number(value: float) -> str:
    return "–" if isnan(value) else f"{value:.3f}"

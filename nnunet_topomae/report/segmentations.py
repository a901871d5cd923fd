"""Validation cases that were segmented worst, with reference and predictions of every run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunet_topomae.data.raw_files import images_by_case
from nnunet_topomae.data.raw_images import require_whole
from nnunet_topomae.report.health import class_names
from nnunet_topomae.report.lenient import file_name
from nnunet_topomae.report.models import mean_dice
from nnunet_topomae.report.mosaic import as_bytes
from nnunet_topomae.report.runs import Run
from nnunet_topomae.report.viewer import Viewer
from nnunet_topomae.visualization.orientation import View, axis_directions
from nnunet_topomae.visualization.palette import CLASSES
from nnunet_topomae.visualization.slices import grey_window

MAX_VOXELS = 900_000  # of a case in the page; larger ones are thinned out
MARGIN = 0.2  # around what is labelled, as a part of its size
LARGEST_LABEL = 255


class SegmentedCase(NamedTuple):
    """A validation case and how well each run segmented it.

    Attributes:
        name: identifier.
        dataset: its name.
        metrics: by class, by the run's letter.
        runs: that have it.
    """

    name: str
    dataset: str
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    runs: Sequence[Run]

    @property
    def mean_dice(self) -> dict[str, float]:
        """By the run's letter; NaN where no class is anywhere."""
        return {letter: mean_dice(classes) for letter, classes in self.metrics.items()}

    @property
    def worst(self) -> float:
        """Smallest mean Dice of a run."""
        return min((mean for mean in self.mean_dice.values() if not isnan(mean)), default=nan)


def segmented_cases(runs: Sequence[Run]) -> list[SegmentedCase]:
    """Every case of a summary.json of nnU-Net, the worst first."""
    found: dict[tuple[str, str], dict[str, dict[str, Mapping[str, float]]]] = {}
    for run in runs:
        names = class_names(run)
        for case in run.files:
            metrics = {names.get(key, key): values for key, values in run.cases[case].items()}
            found.setdefault((run.dataset, case), {})[run.letter] = metrics
    cases = [
        SegmentedCase(name, dataset, metrics, [run for run in runs if run.letter in metrics])
        for (dataset, name), metrics in found.items()
    ]
    return sorted(cases, key=lambda case: (isnan(case.worst), case.worst, case.name))


def case_viewer(case: SegmentedCase) -> Viewer:
    """Image, reference and each prediction.

    Raises:
        OSError, RuntimeError: a file cannot be read.
        ValueError: what is missing and where it was looked for.
    """
    first = case.runs[0]
    if "file_ending" not in first.dataset_json:
        raise ValueError(f"{first.name} has no dataset.json that says how its images are stored")
    reference_file = _reference_file(first.files[case.name][1], case)
    reader = _reader(first, reference_file)
    images_of_case = image_files(case.name, first)
    require_whole([reference_file, *images_of_case])
    images, properties = reader().read_images(images_of_case)
    maps = {"reference": reader().read_seg(str(reference_file))[0][0]}
    for run in case.runs:
        file = run.folder / "validation" / reference_file.name
        if not file.is_file():
            raise ValueError(f"{run.name} has no {file.parent.name}/{file.name}")
        require_whole([file])
        maps[run.letter] = reader().read_seg(str(file))[0][0]
    if any(labels.shape != images[0].shape for labels in maps.values()):
        shapes = [images[0].shape, *(labels.shape for labels in maps.values())]
        raise ValueError(f"image, reference and predictions differ in shape: {shapes}")
    view = View(axis_directions(reference_file, reader))
    turned = {name: view.volume(labels) for name, labels in maps.items()}
    return _viewer(case, view, view.volume(images[0]), turned, view.of_axes(properties["spacing"]))


def view_of(case: str, run: Run) -> View:
    """How the preprocessed image of a case is turned to be looked at; as it is where the raw one is not found."""
    try:
        file = Path(image_files(case, run)[0])
        directions = axis_directions(file, _reader(run, file))
    except Exception:  # a picture as it is stored, which its plane's names say, needs no file
        directions = None
    order = run.axes_order
    return View(None if directions is None else (directions[order[0]], directions[order[1]], directions[order[2]]))


def _reader(run: Run, file: Path) -> type[BaseReaderWriter]:
    return determine_reader_writer_from_dataset_json(dict(run.dataset_json), str(file), verbose=False)


def _reference_file(said: str, case: SegmentedCase) -> Path:
    """Where summary.json says, or, on another machine, in this one's nnUNet_preprocessed or nnUNet_raw."""
    name, folders = file_name(said), [Path(said).parent]
    for variable, subfolder in (("nnUNet_preprocessed", "gt_segmentations"), ("nnUNet_raw", "labelsTr")):
        if os.environ.get(variable):
            folders.append(Path(os.environ[variable], case.dataset, subfolder))
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"no reference {name} in {', '.join(map(str, folders))}: set nnUNet_preprocessed")


def image_files(case: str, run: Run) -> list[str]:
    """A file a channel of a raw training case. Raises ValueError that says what is missing."""
    raw = Path(os.environ.get("nnUNet_raw", ""), run.dataset)
    if not os.environ.get("nnUNet_raw") or not raw.is_dir():
        raise ValueError(f"no images of {run.dataset}: set nnUNet_raw to the folder that holds it")
    listed = run.dataset_json.get("dataset")
    if listed:  # nnU-Net's way to name images that lie elsewhere
        files = [os.path.normpath(raw / file) for file in listed[case]["images"]]
    else:
        ending = run.dataset_json["file_ending"]
        files = [str(file) for file in images_by_case(raw / "imagesTr", ending).get(case, {}).values()]
    if not files or not all(map(os.path.isfile, files)):
        raise ValueError(f"no image of it in {raw}")
    return files


def _viewer(
    case: SegmentedCase, view: View, image: np.ndarray, maps: Mapping[str, np.ndarray], spacing: Sequence[float]
) -> Viewer:
    """Of arrays that are turned to `view`: of the reference, and of each run by its letter."""
    run = case.runs[0]
    ignore = run.ignore_label
    box = _box(np.any([(labels > 0) & (labels != ignore) for labels in maps.values()], axis=0))
    step = _thinning(box, spacing)
    thinned = tuple(slice(axis.start, axis.stop, s) for axis, s in zip(box, step, strict=True))
    image, maps = image[thinned], {name: labels[thinned] for name, labels in maps.items()}
    present = sorted({int(label) for labels in maps.values() for label in np.unique(labels)} - {0})
    if present and max(present) > LARGEST_LABEL:
        raise ValueError(f"labels above {LARGEST_LABEL} cannot be shown")
    viewer = Viewer(
        view,
        image.shape,
        np.multiply(spacing, step).tolist(),
        _worst_slices(maps, ignore),
        f"{case.name}: image, reference and predictions",
        colours={label: CLASSES[(label - 1) % len(CLASSES)] for label in present},
        names=_label_names(run, present),
        ignore=ignore,
    )
    base = viewer.add_volume("image", as_bytes(image, tuple(grey_window(image).values())))
    viewer.add_panel("image", base)
    viewer.add_panel("reference", base, labels=viewer.add_volume("reference", maps["reference"]))
    for of_run in case.runs:
        labels = viewer.add_volume(of_run.letter, maps[of_run.letter])
        dice = {name: values.get("Dice", nan) for name, values in case.metrics[of_run.letter].items()}
        note = ", ".join(f"{name} {'–' if isnan(value) else f'{value:.3f}'}" for name, value in dice.items())
        viewer.add_panel(of_run.name, base, labels=labels, reference="reference", note=f"Dice: {note}")
    return viewer


def _worst_slices(maps: Mapping[str, np.ndarray], ignore: int) -> list[int]:
    """Of each axis that with most errors; the middle where there is none."""
    reference = maps["reference"]
    wrong = np.sum([(labels != reference) & (reference != ignore) for labels in maps.values()], axis=0)
    if not wrong.any():
        return [side // 2 for side in reference.shape]
    return [int(np.argmax(wrong.sum(axis=tuple({0, 1, 2} - {axis})))) for axis in range(3)]


def _box(foreground: np.ndarray) -> list[slice]:
    """The box of what is labelled with a margin; all of the volume where nothing is."""
    box = []
    for axis, side in enumerate(foreground.shape):
        there = np.flatnonzero(foreground.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (there[0], there[-1] + 1) if len(there) else (0, side)
        margin = max(4, round(MARGIN * (high - low)))
        box.append(slice(max(0, int(low) - margin), min(side, int(high) + margin)))
    return box


def _thinning(box: Sequence[slice], spacing: Sequence[float]) -> list[int]:
    """Every how manieth voxel of each axis is shown: the finest axis is thinned first."""
    sides = np.array([axis.stop - axis.start for axis in box])
    step = np.ones(3, dtype=int)
    while np.prod(-(-sides // step)) > MAX_VOXELS:
        step[np.argmin(np.where(sides > step, np.multiply(spacing, step), np.inf))] += 1
    thinned: list[int] = step.tolist()
    return thinned


def _label_names(run: Run, labels: Sequence[int]) -> dict[int, str]:
    """A label of regions is named by those that hold it."""
    names = {
        label: [n for n, v in run.labels.items() if v == label or isinstance(v, tuple) and label in v]
        for label in labels
    }
    return {label: " + ".join(found) or f"label {label}" for label, found in names.items()}

"""Validation cases that were segmented worst, with reference, predictions and errors of every run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_topomae.data.raw_files import images_by_case
from nnunet_topomae.data.raw_images import require_whole
from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.report.models import mean_dice
from nnunet_topomae.report.runs import Metrics, Run, file_name
from nnunet_topomae.visualization.palette import CLASSES, PINK, VERMILION, YELLOW
from nnunet_topomae.visualization.slices import Tile, grey_window, plane_name, slices_figure
from nnunet_topomae.visualization.text import plain

ERRORS = {"missed": VERMILION, "invented": YELLOW, "another class": PINK}
MARGIN = 0.2  # around what is labelled, as a part of its size


class SegmentedCase(NamedTuple):
    """A validation case of a dataset, with its metrics by class, by the letter of each run that has it."""

    name: str
    dataset: str
    metrics: Mapping[str, Metrics]
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
    found: dict[tuple[str, str], dict[str, Metrics]] = {}
    for run in runs:
        for case in run.validation.files:
            metrics = {run.class_names.get(key, key): values for key, values in run.validation.cases[case].items()}
            found.setdefault((run.dataset, case), {})[run.letter] = metrics
    cases = [
        SegmentedCase(name, dataset, metrics, [run for run in runs if run.letter in metrics])
        for (dataset, name), metrics in found.items()
    ]
    return sorted(cases, key=lambda case: (isnan(case.worst), case.worst, case.name))


class Volume(NamedTuple):
    """Voxels [D, H, W], mm of the axes, and what slices across them are called."""

    voxels: np.ndarray
    spacing: Sequence[float]
    planes: Sequence[str]


def read_volume(file: Path, reader: type[BaseReaderWriter]) -> Volume:
    """The first channel; turned to radiological convention where ITK reads the header, else as the reader has it."""
    if issubclass(reader, SimpleITKIO) and (image := sitk.ReadImage(str(file))).GetDimension() == 3:
        image = sitk.DICOMOrient(image, "LPS")
        head_first = sitk.GetArrayFromImage(image)[::-1]
        return Volume(head_first, image.GetSpacing()[::-1], ("axial", "coronal", "sagittal"))
    voxels, properties = reader().read_images([str(file)])
    return Volume(voxels[0], properties["spacing"], [plane_name(axis) for axis in range(3)])


def read_case(case: SegmentedCase) -> dict[str, Volume]:
    """The image, the reference and the prediction of each run, under its letter.

    Raises:
        OSError, RuntimeError: a file cannot be read.
        ValueError: what is missing and where it was looked for.
    """
    first = case.runs[0]
    if "file_ending" not in first.dataset_json:
        raise ValueError(f"{first.name} has no dataset.json that says how its images are stored")
    reference = _reference_file(first.validation.files[case.name][1], case)
    files = {"image": _image_file(case.name, first), "reference": reference}
    files |= {run.letter: run.folder / "validation" / reference.name for run in case.runs}
    require_whole(files.values())
    reader = determine_reader_writer_from_dataset_json(dict(first.dataset_json), str(reference), verbose=False)
    volumes = {name: read_volume(file, reader) for name, file in files.items()}
    if len(shapes := {volume.voxels.shape for volume in volumes.values()}) > 1:
        raise ValueError(f"image, reference and predictions differ in shape: {shapes}")
    return volumes


def case_figure(case: SegmentedCase) -> Figure:
    """Image beside reference, then a row a run, its labels beside its errors; of each plane the slice with most errors.

    What has no label is cut off. Raises what `read_case` does.
    """
    volumes, ignore_label = read_case(case), case.runs[0].classes.ignore_label
    _, spacing, planes = volumes["image"]
    labelled = [(v.voxels > 0) & (v.voxels != ignore_label) for name, v in volumes.items() if name != "image"]
    box = _box(np.any(labelled, axis=0))
    maps = {name: volume.voxels[box] for name, volume in volumes.items()}
    image, reference = maps.pop("image"), maps.pop("reference")
    errors = {letter: errors_of(labels, reference, ignore_label) for letter, labels in maps.items()}
    slices = enumerate(worst_slices(np.sum([wrong > 0 for wrong in errors.values()], axis=0)))
    places = [(axis, index) for axis, index in slices if min(np.delete(image.shape, axis)) > 1]
    window = grey_window(image)

    def tiles(title: str, *labels: Any) -> list[Tile]:
        return [Tile(image, *place, spacing, window, f"{title}, {planes[place[0]]}", *labels) for place in places]

    rows = [tiles("image") + tiles("reference", reference)]
    for letter, labels in maps.items():
        rows.append(tiles("prediction", labels) + tiles("errors", errors[letter], list(ERRORS.values())))
    legend = _label_colours(case.runs[0].classes, np.unique([*maps.values(), reference])) | ERRORS
    return slices_figure(rows, ["", *maps], legend=legend)


def errors_of(labels: np.ndarray, reference: np.ndarray, ignore_label: int | None) -> np.ndarray:
    """0 where labels are right, or are not to be judged, else the number of what is wrong among ERRORS, from 1."""
    wrong = (labels != reference) & (reference != ignore_label)
    return np.where(wrong, np.where(labels == 0, 1, np.where(reference == 0, 2, 3)), 0)


def _reference_file(said: str, case: SegmentedCase) -> Path:
    """Where summary.json says, or, on another machine, in this one's nnUNet_preprocessed or nnUNet_raw."""
    name, elsewhere = file_name(said), {"nnUNet_preprocessed": "gt_segmentations", "nnUNet_raw": "labelsTr"}
    folders = [Path(os.environ[key], case.dataset, sub) for key, sub in elsewhere.items() if os.environ.get(key)]
    for folder in (folders := [Path(said).parent, *folders]):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"no reference {name} in {', '.join(map(str, folders))}: set nnUNet_preprocessed")


def _image_file(case: str, run: Run) -> Path:
    """The first channel of a raw training case. Raises ValueError that says what is missing."""
    raw = Path(os.environ.get("nnUNet_raw", ""), run.dataset)
    if not os.environ.get("nnUNet_raw") or not raw.is_dir():
        raise ValueError(f"no images of {run.dataset}: set nnUNet_raw to the folder that holds it")
    if listed := run.dataset_json.get("dataset"):  # nnU-Net's way to name images that lie elsewhere
        return raw / listed[case]["images"][0]
    images = images_by_case(raw / "imagesTr", run.dataset_json["file_ending"])
    if case not in images:
        raise ValueError(f"no image of it in {raw}")
    return min(images[case].values())


def worst_slices(wrong: np.ndarray) -> list[int]:
    """Of each axis that with most voxels that are wrong; the middle where none is."""
    if not wrong.any():
        return [side // 2 for side in wrong.shape]
    return [int(np.argmax(wrong.sum(axis=tuple({0, 1, 2} - {axis})))) for axis in range(3)]


def _box(labelled: np.ndarray) -> tuple[slice, ...]:
    """The box of what is labelled with a margin; all of the volume where nothing is."""
    box = []
    for axis, side in enumerate(labelled.shape):
        there = np.flatnonzero(labelled.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (there[0], there[-1] + 1) if len(there) else (0, side)
        margin = max(4, round(MARGIN * (high - low)))
        box.append(slice(max(0, low - margin), high + margin))
    return tuple(box)


def _label_colours(classes: Classes, labels: Iterable[int]) -> dict[str, str]:
    """By name; a label of regions is named by those that hold it."""
    colours = {}
    for label in map(int, filter(None, labels)):
        names = [n for value, n in classes.names.items() if label in (value if isinstance(value, tuple) else (value,))]
        colours[plain(" + ".join(names) or f"label {label}")] = CLASSES[(label - 1) % len(CLASSES)]
    return colours

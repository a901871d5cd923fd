"""Which prediction belongs to which reference, and whether the two can be compared; no voxel is read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES, determine_reader_writer_from_dataset_json

from nnunet_topomae.data.raw_files import apples_note, file_fault, labels_by_case, twin
from nnunet_topomae.evaluation.geometry import Geometry, read_geometry


@dataclass(frozen=True)
class Pair:
    """Files of one case.

    Attributes:
        spacing: mm of D, H, W where the reader does not find it beside the reference; None to take the reader's.
    """

    name: str
    reference: Path
    prediction: Path
    spacing: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Folder:
    """Pairs of files that were looked at.

    Attributes:
        pairs: that can be measured, as far as their headers tell.
        units: of `Measure.kind`: mm, and mm³ or for 2D images mm²; voxels where the files do not say how large one is.
        bad: why other cases cannot be measured, by name.
        notes: what a reader of the numbers should know of the files.
    """

    predictions: Path
    pairs: list[Pair]
    reader: type[BaseReaderWriter]
    units: dict[str, str]
    bad: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def file_ending(folder: Path) -> str:
    """The one ending of images that nnU-Net reads in a folder. Raises ValueError if there is none or several."""
    known = sorted({ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings}, key=len)
    names = [file.name.lower() for file in labels_by_case(_existing(folder), "").values()]
    found = {max(fitting, key=len) for name in names if (fitting := [e for e in known if name.endswith(e)])}
    if len(found) != 1:
        what = f"images with the endings {', '.join(sorted(found))}" if found else "no image that nnU-Net reads"
        raise ValueError(f"{folder} holds {what}: name the dataset.json with -djfile")
    return found.pop()


def pair_files(
    references: Path, predictions: Path, description: Mapping[str, Any], only_predicted: bool = False
) -> Folder:
    """Look at all files of both folders, without reading voxels.

    Args:
        description: content of dataset.json, of which `file_ending` and `overwrite_image_reader_writer` count.
        only_predicted: references without a prediction are left out.

    Raises:
        FileNotFoundError: no such folder, or no reference in it.
        ValueError: predictions that are missing or that no reference belongs to, two files of a case, no case that can
            be measured; their names stand in the message.
    """
    ending = description["file_ending"]
    theirs, ours = (labels_by_case(_existing(folder), ending) for folder in (references, predictions))
    notes = [note for folder in (references, predictions) if (note := apples_note(folder, ending))]
    if not theirs:
        raise FileNotFoundError("; ".join([f"{references} holds no file *{ending}", *notes]))
    missing, extra = sorted(theirs.keys() - ours), sorted(ours.keys() - theirs)
    problems = []
    if extra:
        problems.append(f"no reference in {references} for {_listed(ours[case] for case in extra)}")
    if missing and not only_predicted:
        problems.append(f"no prediction for {_listed(theirs[case] for case in missing)}; --chill leaves them out")
    problems += [f"{file} {file_fault(file)}" for file in (*theirs.values(), *ours.values()) if twin(file)]
    cases = sorted(theirs.keys() & ours)
    if problems or not cases:
        raise ValueError(f"{predictions}: {'; '.join(problems) or f'no prediction *{ending} of any reference'}")
    pairs = [Pair(case, theirs[case], ours[case]) for case in cases]
    bad = {pair.name: fault for pair in pairs if (fault := _fault(pair))}
    pairs = [pair for pair in pairs if pair.name not in bad]
    reader = _reader_of(description, [pair.reference for pair in pairs])
    grids: dict[Pair, Geometry] = {}
    for pair in pairs:
        try:
            pair, grid = _with_grid(pair, ending, reader)
            grids[pair] = grid
        except ValueError as error:
            bad[pair.name] = str(error)
    if not grids:
        raise ValueError(f"{predictions}: none of {len(cases)} cases can be measured: {'; '.join(bad.values())}")
    odd = [grid.note for grid in grids.values() if grid.note]
    if odd:
        notes.append(
            f"the headers of {len(odd)} references contradict themselves: measured with the voxel size that nnU-Net "
            f"takes by {reader.__name__}, the image reader of this dataset ({odd[0]}{', ...' if odd[1:] else ''})"
        )
    return Folder(predictions, list(grids), reader, _units(grids), bad, notes)


def pair_folders(
    references: Path, predictions: Sequence[Path], description: Mapping[str, Any], only_predicted: bool = False
) -> list[Folder]:
    """`pair_files` of several folders of predictions. Raises ValueError where they do not hold the same cases."""
    folders = [pair_files(references, folder, description, only_predicted) for folder in predictions]
    cases = [{pair.name for pair in folder.pairs} | folder.bad.keys() for folder in folders]
    differing = sorted(cases[0].union(*cases) - cases[0].intersection(*cases))
    if differing:
        raise ValueError(f"not in all folders of predictions: {', '.join(differing)}. Only the same cases are compared")
    return folders


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    return folder


def _listed(files: Iterable[Path]) -> str:
    return ", ".join(file.name for file in files)


def _fault(pair: Pair) -> str:
    files = (pair.reference, pair.prediction)
    return "; ".join(f"{file} {fault}" for file in files if (fault := file_fault(file)))


def _reader_of(description: Mapping[str, Any], examples: Sequence[Path]) -> type[BaseReaderWriter]:
    """By the first file that one of nnU-Net's readers reads: it tries them where dataset.json names none."""
    failure = None
    for example in examples:
        try:  # with a traceback for each reader that fails
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                return determine_reader_writer_from_dataset_json(dict(description), str(example), verbose=False)
        except Exception as error:  # as many kinds as there are readers
            failure = error
    if failure is None:
        return BaseReaderWriter  # there is nothing to read
    raise ValueError(f"no reader of nnU-Net reads {examples[0]}: {failure}") from failure


def _with_grid(pair: Pair, ending: str, reader: type[BaseReaderWriter]) -> tuple[Pair, Geometry]:
    """The grid of both files; the prediction's spacing where the reference has none. Raises ValueError."""
    grids, problems = [], []
    for file in (pair.reference, pair.prediction):
        try:
            grids.append(read_geometry(file, ending, reader))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    theirs, ours = grids
    if difference := ours.difference(theirs):
        raise ValueError(f"{pair.prediction.name}: prediction and reference differ in {difference}")
    if theirs.spacing is None:
        return replace(pair, spacing=ours.spacing), replace(theirs, spacing=ours.spacing)
    return pair, theirs


def _units(grids: Mapping[Pair, Geometry]) -> dict[str, str]:
    """Raises ValueError where they are not the same for all cases."""
    unknown = [pair.name for pair, grid in grids.items() if grid.spacing is None]
    if 0 < len(unknown) < len(grids):
        raise ValueError(
            f"no spacing is known for {', '.join(unknown)}, but it is for the others: nnU-Net reads that of CASE.tif "
            "from CASE.json beside it"
        )
    flat = [pair.name for pair, grid in grids.items() if grid.is_flat]
    if 0 < len(flat) < len(grids):
        raise ValueError(f"these cases are 2D images, the others 3D: {', '.join(flat)}. Measure them apart")
    if unknown:
        return {"length": "voxels", "volume": "voxels", "": ""}
    return {"length": "mm", "volume": "mm²" if flat else "mm³", "": ""}

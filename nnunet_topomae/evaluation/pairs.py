"""Which prediction belongs to which reference, and whether the two can be compared; no voxel is read."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES, determine_reader_writer_from_dataset_json

from nnunet_topomae.evaluation.geometry import read_geometry


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
    """Pairs of files that were looked at and can be measured.

    Attributes:
        units: of `Measure.kind`: mm, and mm³ or for 2D images mm²; voxels where the files do not say how large one is.
    """

    predictions: Path
    pairs: list[Pair]
    reader: type[BaseReaderWriter]
    units: dict[str, str]


def file_ending(folder: Path) -> str:
    """The one ending of images that nnU-Net reads in a folder. Raises ValueError if there is none or several."""
    known = sorted({ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings}, key=len)
    names = [file.name.lower() for file in _files(folder)]
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
        ValueError: predictions that are missing or that no reference belongs to, files that differ in geometry or
            whose spacing gives no distances; their names stand in the message.
    """
    ending = description["file_ending"]
    expected, found = (
        {file.name for file in _files(folder) if file.name.endswith(ending)} for folder in (references, predictions)
    )
    if not expected:
        raise FileNotFoundError(f"{references} holds no file *{ending}")
    missing, extra = sorted(expected - found), sorted(found - expected)
    problems = []
    if extra:
        problems.append(f"no reference in {references} for {', '.join(extra)}")
    if missing and not only_predicted:
        problems.append(f"no prediction for {', '.join(missing)}; --chill leaves them out")
    if problems or not expected & found:
        raise ValueError(f"{predictions}: {'; '.join(problems) or f'no prediction *{ending} of any reference'}")
    names = sorted(expected & found)
    reader = _reader_of(description, references / names[0])
    checked = [_check_pair(references / name, predictions / name, ending, reader) for name in names]
    problems = [looked.problem for looked in checked if looked.problem]
    if problems:
        raise ValueError(f"{predictions}, {len(problems)} of {len(names)} cases: " + "; ".join(problems))
    return Folder(predictions, [looked.pair for looked in checked], reader, _units(checked))


def pair_folders(
    references: Path, predictions: Sequence[Path], description: Mapping[str, Any], only_predicted: bool = False
) -> list[Folder]:
    """`pair_files` of several folders of predictions. Raises ValueError where they do not hold the same cases."""
    folders = [pair_files(references, folder, description, only_predicted) for folder in predictions]
    cases = [{pair.name for pair in folder.pairs} for folder in folders]
    differing = sorted(set.union(*cases) - set.intersection(*cases))
    if differing:
        raise ValueError(f"not in all folders of predictions: {', '.join(differing)}. Only the same cases are compared")
    return folders


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    return sorted(file for file in folder.iterdir() if file.is_file())


def _reader_of(description: Mapping[str, Any], example: Path) -> type[BaseReaderWriter]:
    # nnU-Net tries one reader after the other and prints a traceback for each that fails.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return determine_reader_writer_from_dataset_json(dict(description), str(example), verbose=False)


class _Checked(NamedTuple):
    pair: Pair
    spacing_known: bool = False
    flat: bool = False
    problem: str = ""


def _check_pair(reference: Path, prediction: Path, ending: str, reader: type[BaseReaderWriter]) -> _Checked:
    pair = Pair(reference.name.removesuffix(ending), reference, prediction)
    try:
        theirs, ours = (read_geometry(file, ending, reader) for file in (reference, prediction))
    except ValueError as error:
        return _Checked(pair, problem=str(error))
    if difference := ours.difference(theirs):
        return _Checked(pair, problem=f"{prediction.name}: prediction and reference differ in {difference}")
    if not theirs.spacing:
        pair = replace(pair, spacing=ours.spacing)
    flat = len(theirs.shape) == 2 or len(theirs.shape) == 3 and 1 in theirs.shape
    return _Checked(pair, bool(theirs.spacing or ours.spacing), flat)


def _units(checked: Sequence[_Checked]) -> dict[str, str]:
    """Raises ValueError where they are not the same for all cases."""
    unknown = [looked.pair.name for looked in checked if not looked.spacing_known]
    if 0 < len(unknown) < len(checked):
        raise ValueError(
            f"no spacing is known for {', '.join(unknown)}, but it is for the others: nnU-Net reads that of CASE.tif "
            "from CASE.json beside it"
        )
    flat = [looked.pair.name for looked in checked if looked.flat]
    if 0 < len(flat) < len(checked):
        raise ValueError(f"these cases are 2D images, the others 3D: {', '.join(flat)}. Measure them apart")
    if unknown:
        return {"length": "voxels", "volume": "voxels", "": ""}
    return {"length": "mm", "volume": "mm²" if flat else "mm³", "": ""}

"""Files named as nnU-Net wants them in raw datasets, by case. A name is text, never a pattern."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

CHANNEL_DIGITS = 4
APPLE_DOUBLE = "._"  # what macOS's archives put beside each file, under its name
# What stands in the place of a file that was not fetched.
POINTERS = {b"version https://git-lfs": "git lfs pull", b"/annex/objects/": "git annex get"}


def labels_by_case(folder: Path, ending: str) -> dict[str, Path]:
    """CASE.nii.gz, for the ending .nii.gz, sorted by case; none where there is no folder.

    Whatever has such a name but those of macOS: `file_fault` knows what is no file.
    """
    return {file.name.removesuffix(ending): file for file in _named(folder, ending) if not _is_apples(file)}


def images_by_case(folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    """CASE_0000.nii.gz, CASE_0001.nii.gz, ... by case and channel, both in order."""
    images: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, file in labels_by_case(folder, ending).items():
        case, _, channel = stem.rpartition("_")
        if "_" in stem and len(channel) == CHANNEL_DIGITS and channel.isascii() and channel.isdigit():
            images[case][int(channel)] = file
    return dict(images)


def apples_note(folder: Path, ending: str) -> str:
    """Says that macOS's files are not counted; empty where there are none."""
    apples = [file.name for file in _named(folder, ending) if _is_apples(file)]
    if not apples:
        return ""
    return (
        f"{folder}: {len(apples)} files whose names begin with ._ are not counted: macOS's archives put them beside "
        f"the images ({apples[0]}, ...), and nnU-Net takes them for images: delete them"
    )


def file_fault(file: Path) -> str:
    """Why this is not one file that can be opened, as its folder shows it; empty if it is."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8, which ITK cannot open: rename it"
    if file.is_symlink() and not file.exists():
        target = str(file.readlink())
        hint = ": `git annex get` fetches it" if "annex" in target else ""
        return f"is a link to {target}, which is not there{hint}"
    if not file.exists():
        return "does not exist"
    if not file.is_file():
        return "is no file"
    if not file.stat().st_size:
        return "is empty"
    if not os.access(file, os.R_OK):
        return "may not be read by this user"
    with file.open("rb") as content:
        begin = content.read(max(map(len, POINTERS)))
    if fetch := next((fetch for pointer, fetch in POINTERS.items() if begin.startswith(pointer)), ""):
        return f"is a pointer to the file that was meant: `{fetch}` fetches it"
    other = twin(file)
    return f"stands beside {other.name}, and ITK may open either: remove one of them" if other else ""


def twin(file: Path) -> Path | None:
    """CASE.nii beside CASE.nii.gz, and the other way round: asked for one of them, ITK opens the other (ITK#2243)."""
    name = file.name.lower()
    if name.endswith(".nii.gz"):
        others = [file.with_suffix("")]
    else:
        others = [file.with_name(file.name + end) for end in (".gz", ".GZ")] if name.endswith(".nii") else []
    return next((other for other in others if os.path.lexists(other)), None)


def _named(folder: Path, ending: str) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name.endswith(ending)) if folder.is_dir() else []


def _is_apples(file: Path) -> bool:
    return file.name.startswith(APPLE_DOUBLE)

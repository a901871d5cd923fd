"""Files named as nnU-Net wants them in raw datasets, by case. A name is text, never a pattern."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

CHANNEL_DIGITS = 4


def labels_by_case(folder: Path, ending: str) -> dict[str, Path]:
    """CASE.nii.gz, for the ending .nii.gz, sorted by case; none where there is no folder."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.name.removesuffix(ending): file for file in files if file.name.endswith(ending)}


def images_by_case(folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    """CASE_0000.nii.gz, CASE_0001.nii.gz, ... by case and channel, both in order."""
    images: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, file in labels_by_case(folder, ending).items():
        case, _, channel = stem.rpartition("_")
        if "_" in stem and len(channel) == CHANNEL_DIGITS and channel.isascii() and channel.isdigit():
            images[case][int(channel)] = file
    return dict(images)

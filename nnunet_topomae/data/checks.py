"""Looks at every case before a training starts, so that a bad one is an error at once and not after a night."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nnunetv2.configuration import default_num_processes
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from tqdm import tqdm

from nnunet_topomae.data.fingerprint import volume_slices


class LabelRange(NamedTuple):
    """Smallest and largest value that a label may have, both included."""

    lowest: int
    highest: int


class Finding(NamedTuple):
    """What is wrong with a case, if anything, and whether its image is constant, which is legal."""

    fault: str | None
    is_constant: bool = False


def check_cases(dataset: nnUNetBaseDataset, identifiers: Sequence[str], labels: LabelRange | None) -> list[str]:
    """Read all cases; return those whose image is constant: they can be trained on, but teach nothing.

    Decompression releases the interpreter lock: as many threads read as nnU-Net uses processes (`nnUNet_def_n_proc`),
    each a few slices at a time.

    Args:
        dataset: preprocessed by nnU-Net.
        identifiers: the cases to read.
        labels: what a label may be; None leaves the labels unread.

    Raises:
        ValueError: names every case that cannot be read, is not finite or whose label is out of range or of another
            size than the image.
    """
    with ThreadPoolExecutor(default_num_processes) as pool:
        findings = list(
            tqdm(
                pool.map(lambda key: _examine(dataset, key, labels), identifiers),
                total=len(identifiers),
                desc="Checking cases",
                disable=None,
            )
        )
    bad = [f"  {key}: {found.fault}" for key, found in zip(identifiers, findings, strict=True) if found.fault]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(identifiers)} preprocessed cases in {dataset.source_folder} cannot be trained on:\n"
            + "\n".join(bad)
            + "\nRepair the raw data and preprocess again, or take the cases out of the split (splits_final.json)."
        )
    return [key for key, found in zip(identifiers, findings, strict=True) if found.is_constant]


def check_none_missing(dataset_class: type[nnUNetBaseDataset], folder: str | Path) -> None:
    """Raises ValueError for cases that have properties but no image: nnU-Net would silently split without them."""
    cases = {file.stem for file in Path(folder).glob("*.pkl")}
    missing = sorted(cases - set(dataset_class.get_identifiers(str(folder))))
    if missing:
        raise ValueError(
            f"{folder} holds {len(missing)} cases without their image: {', '.join(missing)}. "
            "Preprocess again, or delete what is left of them"
        )


def check_previous_stage(folder: str | Path, identifiers: Sequence[str], command: str) -> None:
    """Raises FileNotFoundError where a cascade's previous stage has not segmented every case.

    Args:
        folder: where its validation leaves them, one file a case.
        identifiers: the cases that the next stage is to be trained on.
        command: what trains the previous stage.
    """
    present = {file.stem for file in Path(folder).glob("*")}
    missing = [key for key in identifiers if key not in present]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks segmentations of the previous stage for {len(missing)} of {len(identifiers)} cases: "
            f"{', '.join(missing)}. Validation writes them, each fold those of its own validation cases. Train every "
            f"fold of the previous stage, or fold all:\n  {command}"
        )


def _examine(dataset: nnUNetBaseDataset, key: str, labels: LabelRange | None) -> Finding:
    try:
        image, label, _, _ = dataset.load_case(key)
        lowest, highest = _extremes(image)
        if not np.isfinite([lowest, highest]).all():
            return Finding(f"{_count_non_finite(image)} voxels are NaN or infinite")
        return Finding(_label_fault(image, label, labels) if labels else None, is_constant=lowest == highest)
    except Exception as error:  # a truncated file fails in as many ways as there are readers
        return Finding(f"cannot be read ({type(error).__name__}: {error})")


def _label_fault(image, label, labels: LabelRange) -> str | None:
    if image.shape[1:] != label.shape[1:]:
        return f"the image has {image.shape[1:]} voxels, its label {label.shape[1:]}"
    lowest, highest = _extremes(label)
    if lowest < labels.lowest or highest > labels.highest:
        return (
            f"labels reach from {lowest:g} to {highest:g}, dataset.json allows {labels.lowest} to {labels.highest} "
            "(-1: outside)"
        )
    return None


def _extremes(volume) -> tuple[float, float]:
    """Minimum and maximum of [C, D, H, W]; NaN in both where there is one."""
    extremes = np.array([(slices.min(), slices.max()) for slices in volume_slices(volume)], np.float64)
    return extremes[:, 0].min(), extremes[:, 1].max()


def _count_non_finite(volume) -> int:
    return sum(slices.size - np.count_nonzero(np.isfinite(slices)) for slices in volume_slices(volume))

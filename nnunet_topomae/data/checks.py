"""Looks at every case before a training starts, so that a bad one is an error at once and not after a night."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_topomae.data.case_facts import CaseFacts, read_cases


class LabelRange(NamedTuple):
    """Smallest and largest value that a label may have, both included."""

    lowest: int
    highest: int


def check_cases(dataset: nnUNetBaseDataset, identifiers: Sequence[str], labels: LabelRange | None) -> list[str]:
    """Read all cases, or remember them; return those whose image is constant: they teach nothing, but are legal.

    Args:
        dataset: preprocessed by nnU-Net.
        identifiers: the cases to read.
        labels: what a label may be; None leaves the labels unread.

    Raises:
        ValueError: names every case that cannot be read, is not finite or whose label is out of range or of another
            size than the image.
    """
    reading = read_cases(dataset, identifiers, with_labels=labels is not None)
    for reason in reading.not_remembered:
        warnings.warn(reason, stacklevel=2)
    faults = reading.faults | {case: fault for case, facts in reading.facts.items() if (fault := _fault(facts, labels))}
    if faults:
        raise ValueError(
            f"{len(faults)} of {len(identifiers)} preprocessed cases in {dataset.source_folder} cannot be trained on:\n"
            + "\n".join(f"  {case}: {faults[case]}" for case in identifiers if case in faults)
            + "\nRepair the raw data and preprocess again, or take the cases out of the split (splits_final.json)."
        )
    return [case for case in identifiers if reading.facts[case].image.lowest == reading.facts[case].image.highest]


def check_none_missing(dataset_class: type[nnUNetBaseDataset], folder: str | Path) -> None:
    """Raises ValueError for cases that nnU-Net would silently leave out: without their image, or named like a label."""
    cases = {file.stem for file in Path(folder).glob("*.pkl")}
    missing = sorted(cases - set(dataset_class.get_identifiers(str(folder))))
    misnamed = [case for case in missing if case.endswith("_seg") and Path(folder, f"{case}.b2nd").is_file()]
    if misnamed:
        raise ValueError(
            f"nnU-Net takes what ends in _seg for a label, and so never trains on: {', '.join(misnamed)}. "
            "Give these cases other names in the raw dataset (imagesTr, labelsTr) and run nnUNetv2_preprocess again"
        )
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


def _fault(facts: CaseFacts, labels: LabelRange | None) -> str | None:
    image, label = facts
    if image.non_finite:
        return f"{image.non_finite} voxels are NaN or infinite"
    if labels is None or label is None:
        return None
    if image.shape[1:] != label.shape[1:]:
        return f"the image has {tuple(image.shape[1:])} voxels, its label {tuple(label.shape[1:])}"
    if label.lowest < labels.lowest or label.highest > labels.highest:
        return (
            f"labels reach from {label.lowest:g} to {label.highest:g}, dataset.json allows {labels.lowest} to "
            f"{labels.highest} (-1: outside)"
        )
    return None

"""Images that nobody has labelled: preprocessed as nnU-Net's plan says, kept apart from the labelled cases.

They lie beside the labelled cases' folder, not in it: nnU-Net's own trainers take every case there for a labelled one.
Each has a record, CASE.json, of what it was made from and how. The record is written last: an image without one was
made by an earlier version, or its making was cut off.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_topomae.data.preprocessing_settings import Settings, differences, preprocessing_settings
from nnunet_topomae.files import read_json, write_json
from nnunet_topomae.planning.plans_file import Plans, configuration_of

SUFFIXES = ("_seg.b2nd", ".pkl", ".b2nd")  # of nnU-Net's files of a case
RECORD = ".json"


@dataclass(frozen=True)
class Record:
    """What an unlabelled image was made from, and how.

    Attributes:
        settings: what its preprocessing depended on; "recipe" in the file.
        fingerprint: of its preprocessed voxels.
        files: of each file it was made from, size in bytes and time of change in ns.
    """

    settings: Settings
    fingerprint: str
    files: dict[str, list[int]]


@dataclass(frozen=True)
class UnlabelledImages:
    """The preprocessed unlabelled images of one configuration, in a folder of their own, or none."""

    folder: Path

    @classmethod
    def of(cls, preprocessed_dataset: str | Path, configuration: ConfigurationManager) -> UnlabelledImages:
        return cls(Path(preprocessed_dataset, f"{configuration.data_identifier}_unlabelled"))

    @property
    def names(self) -> list[str]:
        return sorted(nnUNetDatasetBlosc2.get_identifiers(str(self.folder))) if self.folder.is_dir() else []

    def dataset(self, names: Sequence[str]) -> nnUNetBaseDataset:
        return nnUNetDatasetBlosc2(str(self.folder), list(names))

    def record(self, name: str) -> Record | None:
        """None where there is none, or none that can be read."""
        try:
            content = read_json(self.folder / f"{name}{RECORD}")
            return Record(content["recipe"], content["fingerprint"], content["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, name: str, made: Path, record: Record) -> None:
        """Take in the files that nnU-Net's preprocessor wrote as `made`.b2nd, ..., instead of those of that name."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{name}{RECORD}").unlink(missing_ok=True)
        for suffix in SUFFIXES:
            made.with_name(f"{made.name}{suffix}").replace(self.folder / f"{name}{suffix}")
        content = {"recipe": record.settings, "fingerprint": record.fingerprint, "files": record.files}
        write_json(self.folder / f"{name}{RECORD}", content)

    def remove(self, name: str) -> None:
        for suffix in (RECORD, *SUFFIXES):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def faults(self, settings: Settings) -> dict[str, str]:
        """Why an image does not fit those that are preprocessed with `settings` today, by name."""
        records = {name: self.record(name) for name in self.names}
        return {
            name: "nothing tells what it was made with"
            if record is None
            else f"made by other plans ({'; '.join(changed)})"
            for name, record in records.items()
            if record is None or (changed := differences(record.settings, settings))
        }


def unlabelled_images(
    preprocessed_dataset: Path, plans: Plans, configuration_name: str, dataset_json: Mapping[str, Any]
) -> tuple[UnlabelledImages, dict[str, str]]:
    """Those of a configuration, and why some of them are not used, by name."""
    configuration = configuration_of(plans, configuration_name)
    images = UnlabelledImages.of(preprocessed_dataset, configuration)
    unused = images.faults(preprocessing_settings(plans, configuration_name, dataset_json))
    folder = Path(preprocessed_dataset, configuration.data_identifier)
    labelled = set(infer_dataset_class(str(folder)).get_identifiers(str(folder))) if folder.is_dir() else set()
    return images, unused | {name: "not used: it has a label now" for name in images.names if name in labelled}


def grouped(faults: Mapping[str, str]) -> str:
    """Each fault with the names that have it, in one line."""
    names: dict[str, list[str]] = {}
    for name, fault in faults.items():
        names.setdefault(fault, []).append(name)
    return "; ".join(f"{fault}: {', '.join(of_fault)}" for fault, of_fault in names.items())


def advice(plans: Plans, configuration_name: str) -> str:
    """What to do about images that were made by other plans."""
    options = options_of(plans, configuration_name)
    return (
        f"Add them again (nnunet-topomae unlabelled add {options} -i FOLDER) or take them out "
        f"(nnunet-topomae unlabelled remove {options} --unusable)"
    )


def options_of(plans: Plans, configuration_name: str) -> str:
    """What the commands on unlabelled images are told."""
    return shlex.join(["-d", plans["dataset_name"], "-p", plans["plans_name"], "-c", configuration_name])


class JoinedDataset:
    """Cases out of several preprocessed folders, as far as nnU-Net's data loader looks at a data set."""

    def __init__(self, cases: Sequence[str], parts: Sequence[nnUNetBaseDataset]) -> None:
        self.parts = parts
        self.source_folder = " and ".join(part.source_folder for part in parts if part.identifiers)
        self.identifiers = list(cases)
        self._part_of = {case: part for part in parts for case in part.identifiers}

    def load_case(self, identifier: str) -> tuple[Any, ...]:
        return self._part_of[identifier].load_case(identifier)

"""Cases of a nnU-Net dataset that no training of fold 0 sees."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_topomae.data.raw_files import images_by_case, labels_by_case
from nnunet_topomae.planning.plans_file import read_dataset_json


class Case(NamedTuple):
    """Files of a case: an image a channel, and the label."""

    images: list[Path]
    label: Path


@dataclass(frozen=True)
class HeldOut:
    """The labelled test cases of a dataset, or, where it has none, the validation cases of fold 0.

    Attributes:
        images, labels: folders of links to the held-out cases, as nnU-Net's commands want them.
        description: content of dataset.json.
        training: by name, the cases of the fold whose labels are trained on.
        test: by name, the held-out cases.
    """

    images: Path
    labels: Path
    description: dict
    training: dict[str, Case]
    test: dict[str, Case]

    @classmethod
    def link(cls, raw: Path, preprocessed: Path, folder: Path) -> HeldOut:
        """Find the cases of the raw dataset, and link to them in `folder`/images and `folder`/labels."""
        description = read_dataset_json(raw)
        ending = description["file_ending"]
        listed = get_filenames_of_train_images_and_targets(str(raw), description)
        labelled = {name: Case(list(map(Path, c["images"])), Path(c["label"])) for name, c in listed.items()}
        fold = json.loads((preprocessed / "splits_final.json").read_text())[0]
        images = images_by_case(raw / "imagesTs", ending)
        test = {
            name: Case(list(images.get(name, {}).values()), label)
            for name, label in labels_by_case(raw / "labelsTs", ending).items()
        } or {name: labelled[name] for name in fold["val"]}

        held_out = cls(folder / "images", folder / "labels", description, {n: labelled[n] for n in fold["train"]}, test)
        held_out.images.mkdir()
        held_out.labels.mkdir()
        for name, case in test.items():
            if not case.images:
                raise FileNotFoundError(f"{raw / 'imagesTs'} has no image of {name}, whose label is {case.label}")
            for channel, file in enumerate(case.images):
                (held_out.images / f"{name}_{channel:04d}{ending}").symlink_to(file.resolve())
            (held_out.labels / f"{name}{ending}").symlink_to(case.label.resolve())
            _link_companion(case.images[0], f"_0000{ending}", held_out.images / f"{name}.json")
            _link_companion(case.label, ending, held_out.labels / f"{name}.json")
        return held_out

    @property
    def classes(self) -> dict[str, int | tuple[int, ...]]:
        """Foreground labels, or the labels of each region, by name."""
        return foreground_classes(self.description)

    def read_image(self, case: Case) -> tuple[np.ndarray, tuple[float, ...]]:
        """Image [C, D, H, W] and spacing of D, H, W in mm."""
        image, properties = self._reader(case).read_images([str(file) for file in case.images])
        return image, tuple(properties["spacing"])

    def read_label(self, case: Case) -> np.ndarray:
        """Label [D, H, W]."""
        return self._reader(case).read_seg(str(case.label))[0][0]

    def read(self, cases: Mapping[str, Case]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Image [C, D, H, W] and label [D, H, W] of each case."""
        return ((self.read_image(case)[0], self.read_label(case)) for case in cases.values())

    def _reader(self, case: Case):
        return determine_reader_writer_from_dataset_json(self.description, str(case.label), verbose=False)()


def _link_companion(file: Path, end: str, link: Path) -> None:
    """To what nnU-Net reads beside CASE.tif, if it is there: CASE.json, which holds the spacing."""
    companion = file.with_name(f"{file.name[: -len(end)]}.json")
    if companion.is_file():
        link.symlink_to(companion.resolve())


def foreground_classes(description: Mapping) -> dict[str, int | tuple[int, ...]]:
    """Of the content of dataset.json: foreground labels, or the labels of each region, by name."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description["labels"].items()
        if name not in ("background", "ignore")
    }

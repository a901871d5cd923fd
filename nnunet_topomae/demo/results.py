"""What the demo shows of its trainings: a table of Dice, and the method in one picture."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_topomae.data.dataset_json import read_dataset_json
from nnunet_topomae.data.raw_files import images_by_case
from nnunet_topomae.demo.picture import MethodRow, save_method_figure
from nnunet_topomae.demo.threshold import Case, best_threshold_dice
from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.files import write_text
from nnunet_topomae.monitoring.panels import FOLDER, labels_in_panel, read_panels
from nnunet_topomae.planning.plans_file import configuration_of, read_plans
from nnunet_topomae.visualization.tables import markdown_table

NETWORKS = {"vit": "the ViT", "partner": "its partner"}


class Results:
    """Of a fine-tuned model on cases that it has not seen.

    Args:
        raw, preprocessed: the dataset in nnU-Net's folders.
        predictions: segmentations of test cases (labelsTs), or of validation cases, with summary.json.
    """

    def __init__(self, raw: Path, preprocessed: Path, predictions: Path) -> None:
        self.raw, self.preprocessed, self.predictions = raw, preprocessed, predictions
        self.description = read_dataset_json(raw)
        self.classes = Classes.of_dataset(self.description)
        self.ending: str = self.description["file_ending"]

    @cached_property
    def held_out(self) -> list[str]:
        return sorted(file.name.removesuffix(self.ending) for file in self.predictions.glob(f"*{self.ending}"))

    def write_table(self, file: Path) -> str:
        """Dice of the predictions and of the best threshold, a row a class and one for the mean, as Markdown."""
        training = {name: (case["images"], case["label"]) for name, case in self._labelled.items()}
        images, labels = images_by_case(self.raw / "imagesTs", self.ending), self.raw / "labelsTs"
        test = {name: (list(files.values()), labels / f"{name}{self.ending}") for name, files in images.items()}
        fold = json.loads((self.preprocessed / "splits_final.json").read_text())[0]
        threshold = best_threshold_dice(
            (self._read(*training[name]) for name in fold["train"]),
            (self._read(*(test | training)[name]) for name in self.held_out),
            self.classes,
        )
        mean = load_summary_json(str(self.predictions / "summary.json"))["mean"]
        ours = {name: mean[label]["Dice"] for label, name in self.classes.names.items()}
        for column in (ours, threshold):
            column["mean"] = float(np.nanmean(list(column.values())))
        rows = [(name, f"{ours[name]:.3f}", f"{threshold[name]:.3f}") for name in ours]
        table = markdown_table(["class", "Dice", "best threshold"], rows)
        write_text(file, table + "\n")
        return table

    def draw(self, file: Path, pretrained: Path, finetuned: Path, configuration: str) -> Path | None:
        """From the masked input to the prediction, of the crops in the last panels of `pretrained`; None without any.

        Args:
            pretrained, finetuned: results folders of both trainings, the second with its validation.
            configuration: of the plans.
        """
        panels = read_panels(pretrained / FOLDER)
        if not panels:
            return None
        plans = read_plans(self.preprocessed, "nnUNetPlans")
        axes = plans["transpose_forward"]
        images = str(self.preprocessed / configuration_of(plans, configuration).data_identifier)
        dataset = infer_dataset_class(images)(images)
        rows = []
        for panel in (panel for panel in panels if panel.epoch == panels[-1].epoch):
            box = dataset.load_case(panel.case)[-1]["bbox_used_for_cropping"]
            reference, prediction = (
                labels_in_panel(panel, self._read_label(folder / f"{panel.case}{self.ending}"), axes, box)
                for folder in (self.preprocessed / "gt_segmentations", finetuned / "validation")
            )
            completed = {NETWORKS[name]: volume for name, volume in panel.completed.items()}
            spacing = [float(side) for side in panel.voxel_size]
            rows.append(MethodRow(panel.case, panel.image, panel.mask, completed, reference, prediction, spacing))
        names = {label: name for label, name in self.classes.names.items() if isinstance(label, int)}
        save_method_figure(file, rows, names)
        return file

    @cached_property
    def _labelled(self) -> dict[str, dict[str, Any]]:
        return get_filenames_of_train_images_and_targets(str(self.raw), self.description)

    def _read(self, images: Iterable[Path | str], label: Path | str) -> Case:
        image, _ = self._reader(label).read_images([str(file) for file in images])
        return image, self._read_label(label)

    def _read_label(self, label: Path | str) -> Any:
        return self._reader(label).read_seg(str(label))[0][0]

    def _reader(self, example: Path | str) -> Any:
        return determine_reader_writer_from_dataset_json(self.description, str(example), verbose=False)()

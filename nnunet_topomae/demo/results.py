"""What the demo shows of its trainings: a table of Dice, and the method in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_topomae.data.dataset_json import read_dataset_json
from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.files import written_whole
from nnunet_topomae.monitoring.panels import FOLDER, Panel, labels_in_panel, read_panels
from nnunet_topomae.planning.plans_file import configuration_of, read_plans
from nnunet_topomae.visualization.palette import CLASSES
from nnunet_topomae.visualization.slices import Tile, grey_window, plane_name, slices_figure
from nnunet_topomae.visualization.tables import markdown_table
from nnunet_topomae.visualization.text import plain

NETWORKS = {"vit": "the ViT", "partner": "its partner"}


def dice_table(predictions: Path, classes: Classes) -> tuple[str, int]:
    """Mean Dice of a folder with summary.json, a row a class and one for their mean, and the number of its cases."""
    summary = load_summary_json(str(predictions / "summary.json"))
    dice = {name: summary["mean"][label]["Dice"] for label, name in classes.names.items()}
    dice["mean"] = float(np.nanmean(list(dice.values())))
    table = markdown_table(["class", "Dice"], [(name, f"{value:.3f}") for name, value in dice.items()])
    return table, len(summary["metric_per_case"])


def draw_method(file: Path, preprocessed: Path, pretrained: Path, finetuned: Path, configuration: str) -> Path | None:
    """From the masked input to the prediction, a row a crop of the last panels of `pretrained`; None without any.

    Args:
        file: picture to write.
        preprocessed: the dataset in nnUNet_preprocessed.
        pretrained, finetuned: results folders of both trainings, the second with its validation.
        configuration: of the plans.
    """
    panels = read_panels(pretrained / FOLDER)
    if not panels:
        return None
    description, plans = read_dataset_json(preprocessed), read_plans(preprocessed, "nnUNetPlans")
    ending = description["file_ending"]
    images = str(preprocessed / configuration_of(plans, configuration).data_identifier)
    dataset = infer_dataset_class(images)(images)
    rows, names = [], []
    for panel in (panel for panel in panels if panel.epoch == panels[-1].epoch):
        box = dataset.load_case(panel.case)[-1]["bbox_used_for_cropping"]
        maps = []
        for folder in (preprocessed / "gt_segmentations", finetuned / "validation"):
            label = str(folder / f"{panel.case}{ending}")
            reader = determine_reader_writer_from_dataset_json(description, label, verbose=False)()
            maps.append(labels_in_panel(panel, reader.read_seg(label)[0][0], plans["transpose_forward"], box))
        index = _fullest_slice(maps[0])
        rows.append(_row(panel, index, maps))
        names.append(f"{plain(panel.case)}\n{plane_name(0)}, slice {index}")
    labels = {label: name for label, name in Classes.of_dataset(description).names.items() if isinstance(label, int)}
    legend = {plain(labels[label]): CLASSES[(label - 1) % len(CLASSES)] for label in sorted(labels)}
    with written_whole(file) as partial:
        slices_figure(rows, names, legend=legend).savefig(partial, dpi=100)
    return file


def _row(panel: Panel, index: int, maps: Sequence[np.ndarray]) -> list[Tile]:
    volumes = {"input": panel.image, "masked input": np.ma.array(panel.image, mask=panel.mask)}
    volumes |= {f"reconstruction,\n{NETWORKS[name]}": volume for name, volume in panel.completed.items()}
    place = 0, index, panel.voxel_size.tolist(), grey_window(panel.image)
    tiles = [Tile(volume, *place, title) for title, volume in volumes.items()]
    titles = ("reference", "prediction")
    return tiles + [Tile(panel.image, *place, title, labels) for title, labels in zip(titles, maps, strict=True)]


def _fullest_slice(labels: np.ndarray) -> int:
    """The slice across D with most classes, and among those with most labelled voxels."""
    return max(range(len(labels)), key=lambda i: (len(np.unique(labels[i])), np.count_nonzero(labels[i])))

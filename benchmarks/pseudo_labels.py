"""Pseudo-labels: the rival that nnU-Net's maintainers advise to people with unlabelled images.

Teachers segment the preprocessed unlabelled images; a second training reads their answers as labels, beside the true
ones. Arms of `few_labels.py`; the dataset that is written here is one for nnU-Net's own trainers, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import blosc2
import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

SURE = 0.8  # a foreground class whose probability is neither above nor as far below one half is to be ignored


def write_pseudo_labelled_dataset(source: Path, target: Path, fold: int, models: Sequence[Path], data: str) -> None:
    """`source` with labels by the teachers for the unlabelled cases of a fold, and what is unsure to be ignored.

    Every true label stands in the split as often as makes half of what is drawn truly labelled.

    Args:
        source: preprocessed dataset of nnU-Net, whose splits have `unlabelled` cases. It is only linked to.
        target: folder to write; dataset.json is written last.
        models: results folders of nnU-Net trainings, whose probabilities are averaged.
        data: name of the folder of preprocessed cases.
    """
    split = json.loads((source / "splits_final.json").read_text())[fold]
    description = json.loads((source / "dataset.json").read_text())
    labels = [value for value in description["labels"].values() if value]
    ignore = max(labels) + 1
    (target / data).mkdir(parents=True, exist_ok=True)
    _link(source, target, {"dataset.json", "splits_final.json", data})
    teachers = [_predictor(model, fold) for model in models]
    for case in split["train"] + split["val"]:
        for file in (f"{case}.b2nd", f"{case}_seg.b2nd"):
            _link_file(source / data / file, target / data / file)
        true_label = blosc2.open(str(source / data / f"{case}_seg.b2nd"), mode="r")[:]
        _write_properties(source / data, target / data, case, true_label, labels)
    for case in split["unlabelled"]:
        image = torch.from_numpy(blosc2.open(str(source / data / f"{case}.b2nd"), mode="r")[:])
        pseudo = pseudo_label(teachers, image, labels, ignore)
        _link_file(source / data / f"{case}.b2nd", target / data / f"{case}.b2nd")
        blosc2.asarray(pseudo, urlpath=str(target / data / f"{case}_seg.b2nd"), mode="w")
        _write_properties(source / data, target / data, case, pseudo, labels)
    often = round(len(split["unlabelled"]) / len(split["train"]))
    folds = [{"train": split["train"] * often + split["unlabelled"], "val": split["val"]}] * (fold + 1)
    (target / "splits_final.json").write_text(json.dumps(folds))
    description["labels"]["ignore"] = ignore
    (target / "dataset.json").write_text(json.dumps(description))


def pseudo_label(
    teachers: Sequence[nnUNetPredictor], image: torch.Tensor, labels: Sequence[int], ignore: int
) -> np.ndarray:
    """[1, D, H, W] int8 for a preprocessed image [C, D, H, W]: largest component a class, `ignore` where unsure."""
    answers = [t.label_manager.apply_inference_nonlin(t.predict_logits_from_preprocessed_data(image)) for t in teachers]
    probabilities = torch.stack(answers).float().mean(dim=0)
    segmentation = probabilities.argmax(dim=0).numpy().astype(np.int8)
    for label in labels:
        segmentation = remove_all_but_largest_component_from_segmentation(segmentation, label)
    unsure = ((probabilities[1:] > 1 - SURE) & (probabilities[1:] < SURE)).any(dim=0).numpy()
    return np.where(unsure, ignore, segmentation)[None].astype(np.int8)


def _predictor(model: Path, fold: int) -> nnUNetPredictor:
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(model), (fold,), "checkpoint_final.pth")
    return predictor


def _write_properties(source: Path, target: Path, case: str, label: np.ndarray, labels: Sequence[int]) -> None:
    """With an ignore label nnU-Net draws crops around annotated voxels, which it looks up under this key."""
    properties = load_pickle(str(source / f"{case}.pkl"))
    wanted = [*labels, (-1, 0, *labels)]
    properties["class_locations"] = DefaultPreprocessor._sample_foreground_locations(label, wanted)
    write_pickle(properties, str(target / f"{case}.pkl"))


def _link(source: Path, target: Path, without: set[str]) -> None:
    for path in source.iterdir():
        if path.name not in without:
            _link_file(path, target / path.name)


def _link_file(source: Path, target: Path) -> None:
    if not target.exists():
        target.symlink_to(source.resolve())

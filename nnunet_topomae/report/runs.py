"""What the results folders of nnU-Net's trainers hold, read without running code that may hide in a checkpoint."""

from __future__ import annotations

import ast
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_topomae.checkpoint_files import read_restricted
from nnunet_topomae.monitoring.panels import FOLDER, Panel, read_panels
from nnunet_topomae.visualization.palette import RUNS

CHECKPOINTS = {"final": "finished", "latest": "unfinished", "best": "unfinished"}  # the first that is there is read
NETWORKS = {"vit": "ViT", "partner": "partner"}
MAX_RUNS = len(string.ascii_uppercase)


@dataclass(frozen=True)
class Run:
    """One fold of a training, as far as its folder has it.

    Attributes:
        folder: `.../DATASET/TRAINER__PLANS__CONFIGURATION/fold_X`.
        letter: short name in the page.
        trainer, plans_name, configuration, dataset: names; empty where the folder's name does not say.
        plans, dataset_json: contents of the files beside the folds; empty where there are none.
        logging: nnU-Net's curves by name, a value an epoch.
        state: of the training, in words.
        debug: content of debug.json, nearly all of it text.
        summary: content of validation/summary.json; empty where there is none.
        panels: of the folder `progress`.
        missing: sentences about what the folder does not have.
    """

    folder: Path
    letter: str
    trainer: str
    plans_name: str
    configuration: str
    dataset: str
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    logging: Mapping[str, Sequence[Any]]
    state: str
    debug: Mapping[str, str]
    summary: Mapping[str, Any]
    panels: Sequence[Panel]
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.letter} {self.trainer}"

    @property
    def fold(self) -> str:
        return self.folder.name.removeprefix("fold_")

    @property
    def colour(self) -> str:
        return RUNS[string.ascii_uppercase.index(self.letter) % len(RUNS)]

    @property
    def is_pretraining(self) -> bool:
        return self.trainer == "TopoMAEPretrainer" or "train_reconstruction_vit" in self.logging

    @property
    def epochs(self) -> int:
        """Number of epochs that have passed."""
        return len(self.curve("epoch_end_timestamps"))

    @property
    def labels(self) -> Mapping[str, Any]:
        """Of dataset.json, by name; empty where it is laid out otherwise."""
        labels = self.dataset_json.get("labels")
        return labels if isinstance(labels, dict) else {}

    def curve(self, name: str) -> np.ndarray:
        """[epochs] float64; empty where that was not logged, or is no curve."""
        try:
            values = np.array(self.logging.get(name, ()), dtype=np.float64)
        except (TypeError, ValueError):  # another trainer may log what it likes
            return np.empty(0)
        return values if values.ndim == 1 else np.empty(0)

    @property
    def epoch_seconds(self) -> np.ndarray:
        starts, ends = self.curve("epoch_start_timestamps"), self.curve("epoch_end_timestamps")
        epochs = min(len(starts), len(ends))
        return ends[:epochs] - starts[:epochs]

    def setting(self, name: str) -> Any:
        """An attribute of the trainer, from debug.json; None where that has none."""
        text = self.debug.get(name)
        try:
            return ast.literal_eval(text) if isinstance(text, str) else text
        except (ValueError, SyntaxError):
            return text


def find_folds(folder: Path) -> list[Path]:
    """The fold folders that a user means: the folder itself, or those in a model's or a dataset's folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no results folder.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist")
    folder = folder.resolve()
    if folder.is_dir() and _is_fold(folder):
        return [folder]
    for pattern in ("fold_*", "*/fold_*"):
        folds = sorted(fold for fold in folder.glob(pattern) if fold.is_dir() and _is_fold(fold))
        if folds:
            return folds
    raise ValueError(
        f"{folder} is no results folder of nnU-Net: name a fold_X, or the TRAINER__PLANS__CONFIGURATION or the dataset "
        "that holds folds with a checkpoint, a training log or a validation"
    )


def _is_fold(folder: Path) -> bool:
    signs = ("checkpoint_*.pth", "training_log_*.txt", "debug.json", "validation/summary.json")
    return any(next(folder.glob(sign), None) for sign in signs)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Every fold in the folders, once, in their order. Raises what `find_folds` does, and ValueError for too many."""
    folds = list(dict.fromkeys(fold for folder in folders for fold in find_folds(folder)))
    if len(folds) > MAX_RUNS:
        raise ValueError(f"{len(folds)} folds are too many for one page, which shows at most {MAX_RUNS}: name fewer")
    return [_read_run(fold, letter) for fold, letter in zip(folds, string.ascii_uppercase, strict=False)]


def _read_run(folder: Path, letter: str) -> Run:
    missing: list[str] = []
    model = folder.parent
    trainer, plans_name, configuration = (model.name.split("__") + ["", ""])[:3]
    logging, init_args, state = _checkpoint(folder, missing)
    plans = init_args.get("plans") or _json(model / "plans.json", missing)
    summary = _summary(folder, missing)
    debug = _json(folder / "debug.json", missing)
    return Run(
        folder,
        letter,
        trainer,
        plans_name,
        configuration,
        str(plans.get("dataset_name", model.parent.name)),
        plans,
        init_args.get("dataset_json") or _json(model / "dataset.json", missing),
        logging,
        state,
        debug,
        summary,
        _panels(folder / FOLDER, missing),
        missing,
    )


def _checkpoint(folder: Path, missing: list[str]) -> tuple[dict, dict, str]:
    """Curves, arguments of the trainer, and the training's state."""
    for name, state in CHECKPOINTS.items():
        file = folder / f"checkpoint_{name}.pth"
        if not file.is_file():
            continue
        try:
            content = read_curves(file)
            words = state if state == "finished" else f"not finished; from {file.name}"
            return content["logging"], content["init_args"], words
        except (OSError, ValueError) as error:
            missing.append(f"No curves: {error}.")
            return {}, {}, "unknown"
    missing.append("No checkpoint, so no curves and no timing.")
    return {}, {}, "no checkpoint"


def read_curves(file: Path) -> dict[str, dict]:
    """`logging` and `init_args` of a checkpoint, by PyTorch's restricted reader.

    Raises:
        ValueError: the file is damaged, no checkpoint, or holds objects that could run code.
    """
    content = read_restricted(file, mmap=True)
    kept = {name: content.get(name) or {} for name in ("logging", "init_args")} if isinstance(content, dict) else {}
    if not kept or not all(isinstance(value, dict) for value in kept.values()):
        raise ValueError(f"{file} cannot be read as a checkpoint: logging and init_args must be dictionaries")
    return kept


def _json(file: Path, missing: list[str]) -> dict[str, Any]:
    where = f"{file.parent.name}/{file.name}"
    if not file.is_file():
        missing.append(f"No {where}.")
        return {}
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        missing.append(f"{where} cannot be read: {error}.")
        return {}
    if isinstance(content, dict):
        return content
    missing.append(f"{where} holds no object.")
    return {}


def _summary(folder: Path, missing: list[str]) -> dict[str, Any]:
    """With the parts that the page reads, or empty."""
    summary = _json(folder / "validation" / "summary.json", missing)
    cases, mean = summary.get("metric_per_case"), summary.get("mean")
    if not summary or (
        isinstance(cases, list)
        and all(isinstance(case, dict) and _two_levels(case.get("metrics")) for case in cases)
        and _two_levels(mean)
    ):
        return summary
    missing.append("validation/summary.json is not laid out as nnU-Net's.")
    return {}


def _two_levels(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values())


def _panels(folder: Path, missing: list[str]) -> list[Panel]:
    try:
        return read_panels(folder)
    except ValueError as error:
        missing.append(f"No reconstructions: {error}.")
        return []

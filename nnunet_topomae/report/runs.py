"""What the results folders of nnU-Net's trainers hold, read without running code that may hide in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple, TypeVar

import numpy as np

from nnunet_topomae.checkpoint_files import read_restricted
from nnunet_topomae.config import PLANS_SECTION
from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.files import read_json
from nnunet_topomae.monitoring.panels import FOLDER, Panel, read_panels
from nnunet_topomae.planning.plans_file import configuration_of
from nnunet_topomae.report.training_log import TrainingLog, read_logs
from nnunet_topomae.report.words import text
from nnunet_topomae.training.provenance import in_words, recorded_provenance
from nnunet_topomae.visualization.palette import RUNS

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")  # the first that can be read is
FINISHED = CHECKPOINTS[0]
NETWORKS = {"vit": "ViT", "partner": "partner"}
ALPHABET = 26
Metrics = Mapping[str, Mapping[str, float]]  # by key of summary.json (label, region or network) and name
Read = TypeVar("Read")


class Validation(NamedTuple):
    """Of validation/summary.json: metrics by case, their means, prediction and reference of each segmented case.

    The files are as the machine named them that has measured them.
    """

    cases: Mapping[str, Metrics]
    mean: Metrics
    files: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Run:
    """One fold of a training, as far as its folder has it; the rest is empty.

    Attributes:
        folder: `.../DATASET/TRAINER__PLANS__CONFIGURATION/fold_X`.
        model: number of its trainer among those of the page: folds of one trainer, plans and configuration share it.
        letter: short name in the page: A, or A0, A1 where there are several folds.
        trainer, plans_name, configuration: by the folder's name.
        plans, dataset_json: of the checkpoint, or beside the folds.
        planned: what the plans say of the configuration, with what it inherits.
        classes: what is segmented.
        logging: nnU-Net's curves by name, a value an epoch.
        checkpoint: name of the file that the curves are from.
        debug: content of debug.json, nearly all of it text.
        panels: of the folder `progress`.
        log: of nnU-Net, what is telling in it.
        provenance: the weights that it comes from, with their licences, the oldest first.
        missing: sentences about what the folder does not have, or what cannot be read.
    """

    folder: Path
    model: int
    letter: str
    trainer: str
    plans_name: str
    configuration: str
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    planned: Mapping[str, Any]
    classes: Classes
    logging: Mapping[str, Any]
    checkpoint: str
    debug: Mapping[str, Any]
    validation: Validation
    panels: Sequence[Panel]
    log: TrainingLog
    provenance: Sequence[str]
    missing: Sequence[str]

    @property
    def name(self) -> str:
        return f"{self.letter} {self.trainer}"

    @property
    def dataset(self) -> str:
        return text(self.plans.get("dataset_name", self.folder.parent.parent.name))

    @property
    def fold(self) -> str:
        return self.folder.name.removeprefix("fold_")

    @property
    def colour(self) -> str:
        return RUNS[self.model % len(RUNS)]

    @property
    def class_names(self) -> dict[str, str]:
        """By the keys of summary.json, such as '1' or '(1, 2)'."""
        return {str(label): name for label, name in self.classes.names.items()}

    @property
    def is_pretraining(self) -> bool:
        return self.trainer == "TopoMAEPretrainer" or "train_reconstruction_vit" in self.logging

    @property
    def knobs(self) -> Mapping[str, Any] | None:
        """Ours in the plans; None without any, and for trainers of others, which do not look at them."""
        ours = "config" in self.debug if self.debug else self.trainer.startswith("TopoMAE")
        return _object(self.plans[PLANS_SECTION]) if ours and PLANS_SECTION in self.plans else None

    @property
    def epochs(self) -> int:
        """Number of epochs that have passed."""
        return len(self.curve("epoch_end_timestamps"))

    def curve(self, name: str) -> np.ndarray:
        """[epochs] float64; empty where that was not logged, or is no curve."""
        try:
            values = np.array(self.logging.get(name, ()), dtype=np.float64)
        except (TypeError, ValueError, OverflowError):  # another trainer may log what it likes
            return np.empty(0)
        return values if values.ndim == 1 else np.empty(0)

    @property
    def epoch_seconds(self) -> np.ndarray:
        starts, ends = self.curve("epoch_start_timestamps"), self.curve("epoch_end_timestamps")
        epochs = min(len(starts), len(ends))
        return ends[:epochs] - starts[:epochs]


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
    """Every fold in the folders, once, in their order. Raises what `find_folds` does."""
    folds = list(dict.fromkeys(fold for folder in folders for fold in find_folds(folder)))
    models = list(dict.fromkeys(fold.parent for fold in folds))
    runs = []
    for fold in folds:
        alone = sum(other.parent == fold.parent for other in folds) == 1
        model = models.index(fold.parent)
        runs.append(_read_run(fold, model, _letters(model) + ("" if alone else fold.name.removeprefix("fold_"))))
    return runs


def _letters(number: int) -> str:
    """A to Z, AA, AB, ..., as a spreadsheet names its columns."""
    before, last = divmod(number, ALPHABET)
    return (_letters(before - 1) if before else "") + chr(ord("A") + last)


def split_model_name(name: str) -> tuple[str, str, str]:
    """Trainer, plans and configuration of a folder's name: plans alone may have `__` in theirs."""
    trainer, _, rest = name.partition("__")
    plans, _, configuration = rest.rpartition("__")
    return trainer, plans, configuration


def _read_run(folder: Path, model: int, letter: str) -> Run:
    missing: list[str] = []

    def tried(what: str, empty: Read, read: Callable[..., Read], *arguments: Any) -> Read:
        """A part of the folder; empty, with a sentence in `missing`, where it is not there or of another mind."""
        try:
            return read(*arguments)
        except FileNotFoundError:
            missing.append(f"No {what}.")
        except Exception as error:  # files of other tools are odd in ways of their own
            missing.append(f"{what} cannot be read: {text(error) or type(error).__name__}.")
        return empty

    trainer, plans_name, configuration = split_model_name(folder.parent.name)
    checkpoint, content = "", dict[str, Any]()
    for name in CHECKPOINTS:
        if not content and (folder / name).is_file():
            checkpoint, content = name, tried(name, {}, read_curves, folder / name)
    if not content:
        checkpoint = ""
        missing.append("No checkpoint that can be read, so no curves.")
    made_with = content.get("init_args", {})
    plans, described = (
        _object(made_with.get(name)) or tried(f"{folder.parent.name}/{file}", {}, _read_object, folder.parent / file)
        for name, file in (("plans", "plans.json"), ("dataset_json", "dataset.json"))
    )
    ending = str(described.get("file_ending", ".nii.gz"))
    return Run(
        folder,
        model,
        letter,
        trainer,
        plans_name,
        configuration,
        plans,
        described,
        tried("the configuration in plans.json", {}, _planned, plans, configuration) if plans else {},
        tried("labels in dataset.json", Classes({}), Classes.of_dataset, described) if described else Classes({}),
        content.get("logging", {}),
        checkpoint,
        tried("debug.json", {}, _read_object, folder / "debug.json"),
        tried("validation/summary.json", Validation({}, {}, {}), _validation, folder / "validation", ending),
        tried(FOLDER, [], read_panels, folder / FOLDER),
        read_logs(folder),
        [text(in_words(link)) for link in recorded_provenance(content)],
        missing,
    )


def read_curves(file: Path) -> dict[str, dict[str, Any]]:
    """`logging` and `init_args` of a checkpoint, by PyTorch's restricted reader.

    Raises:
        ValueError: the file is damaged, no checkpoint, or holds objects that could run code.
    """
    content = read_restricted(file, mmap=True)
    kept = {name: content.get(name, {}) for name in ("logging", "init_args")} if isinstance(content, dict) else {}
    if not kept or not all(isinstance(value, dict) for value in kept.values()):
        raise ValueError(f"{file} cannot be read as a checkpoint: logging and init_args must be dictionaries")
    return kept


def _read_object(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _planned(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    return dict(configuration_of(plans, configuration).configuration)


def _validation(folder: Path, ending: str) -> Validation:
    summary = read_json(folder / "summary.json")
    cases: dict[str, Metrics] = {}
    files: dict[str, tuple[str, str]] = {}
    for entry in summary["metric_per_case"]:
        prediction = entry.get("prediction_file")
        name = file_name(prediction).removesuffix(ending) if prediction else str(entry["case"])
        cases[name] = {key: _numbers(values) for key, values in entry["metrics"].items()}
        if prediction:
            files[name] = prediction, str(entry.get("reference_file") or prediction)
    return Validation(cases, {key: _numbers(values) for key, values in summary["mean"].items()}, files)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that are numbers, NaN among them."""
    return {name: float(value) for name, value in values.items() if type(value) in (int, float)}


def file_name(path: str) -> str:
    """The last part of a path as another machine wrote it, with slashes or with Windows' backslashes."""
    return (PurePosixPath(path) if path.startswith("/") else PureWindowsPath(path)).name

"""What the results folders of nnU-Net's trainers hold, read without running code that may hide in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_topomae.checkpoint_files import read_restricted
from nnunet_topomae.config import PLANS_SECTION
from nnunet_topomae.files import read_json
from nnunet_topomae.monitoring.panels import FOLDER, Panel, read_panels
from nnunet_topomae.report.lenient import counted, dictionary, file_name, literal, numbers, text
from nnunet_topomae.report.training_log import TrainingLog, read_logs
from nnunet_topomae.training.provenance import in_words, recorded_provenance
from nnunet_topomae.visualization.palette import RUNS

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")  # the first that can be read is
FINISHED = CHECKPOINTS[0]
COUNTS = ("TP", "FP", "FN", "TN", "n_pred", "n_ref")  # of nnU-Net's summary.json
NETWORKS = {"vit": "ViT", "partner": "partner"}
ALPHABET = 26
DEFAULT_ENDING = ".nii.gz"
Label = int | tuple[int, ...]  # or the labels of a region


@dataclass(frozen=True)
class Run:
    """One fold of a training, as far as its folder has it.

    Attributes:
        folder: `.../DATASET/TRAINER__PLANS__CONFIGURATION/fold_X`.
        model: number of its trainer among those of the page: folds of one trainer, plans and configuration share it.
        letter: short name in the page: A, or A0, A1 where there are several folds.
        trainer, plans_name, configuration, dataset: names; empty where the folder's name does not say.
        planned: what the plans say of the configuration, with what it inherits.
        axes_order: axes of a raw image in the order of the preprocessed one, the plans' `transpose_forward`.
        knobs: ours in the plans; None where they have none.
        labels: foreground labels and regions by name.
        ignore_label: -1 for none.
        dataset_json: content of the file beside the folds; empty where there is none.
        logging: nnU-Net's curves by name, a value an epoch.
        checkpoint: name of the file that the curves are from; empty where there is none that can be read.
        debug: content of debug.json, nearly all of it text.
        cases: metrics by case and by key, of validation/summary.json: labels of a segmentation, networks of a
            pre-training.
        mean: metrics by key.
        files: prediction and reference of each segmented case, as the machine named them that has measured them.
        panels: of the folder `progress`.
        log: of nnU-Net, what is telling in it.
        provenance: the weights that it comes from, with their licences, the oldest first.
        missing: sentences about what the folder does not have.
    """

    folder: Path
    model: int
    letter: str
    trainer: str
    plans_name: str
    configuration: str
    dataset: str
    planned: Mapping[str, Any]
    axes_order: Sequence[int]
    knobs: Mapping[str, Any] | None
    labels: Mapping[str, Label]
    ignore_label: int
    dataset_json: Mapping[str, Any]
    logging: Mapping[str, Any]
    checkpoint: str
    debug: Mapping[str, Any]
    cases: Mapping[str, Mapping[str, Mapping[str, float]]]
    mean: Mapping[str, Mapping[str, float]]
    files: Mapping[str, tuple[str, str]]
    panels: Sequence[Panel]
    log: TrainingLog
    provenance: Sequence[str]
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.letter} {self.trainer}"

    @property
    def fold(self) -> str:
        return self.folder.name.removeprefix("fold_")

    @property
    def colour(self) -> str:
        return RUNS[self.model % len(RUNS)]

    @property
    def is_pretraining(self) -> bool:
        return self.trainer == "TopoMAEPretrainer" or "train_reconstruction_vit" in self.logging

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

    def setting(self, name: str) -> Any:
        """An attribute of the trainer, from debug.json; None where that has none."""
        return literal(self.debug.get(name))


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
    trainer, plans_name, configuration = split_model_name(folder.parent.name)
    checkpoint, content = _checkpoint(folder, missing)
    init_args = dictionary(content.get("init_args"))
    plans = dictionary(init_args.get("plans")) or _json(folder.parent / "plans.json", missing)
    described = dictionary(init_args.get("dataset_json")) or _json(folder.parent / "dataset.json", missing)
    ending = described.get("file_ending", DEFAULT_ENDING)
    if not isinstance(ending, str):
        missing.append(f"dataset.json: file_ending is {text(ending)}, which is no ending.")
        described, ending = {name: described[name] for name in described if name != "file_ending"}, DEFAULT_ENDING
    order = plans.get("transpose_forward")
    order = order if isinstance(order, list) and sorted(map(str, order)) == ["0", "1", "2"] else [0, 1, 2]
    labels, ignore_label = _labels(described, missing)
    cases, mean, files = _summary(folder, ending, missing)
    return Run(
        folder=folder,
        model=model,
        letter=letter,
        trainer=trainer,
        plans_name=plans_name,
        configuration=configuration,
        dataset=text(plans.get("dataset_name", folder.parent.parent.name)),
        planned=_planned(plans, configuration, missing),
        axes_order=list(map(int, order)),
        knobs=dictionary(plans[PLANS_SECTION]) if isinstance(plans.get(PLANS_SECTION), dict) else None,
        labels=labels,
        ignore_label=ignore_label,
        dataset_json=described,
        logging=dictionary(content.get("logging")),
        checkpoint=checkpoint,
        debug=_json(folder / "debug.json", missing),
        cases=cases,
        mean=mean,
        files=files,
        panels=_panels(folder / FOLDER, missing),
        log=read_logs(folder),
        provenance=[text(in_words(link)) for link in recorded_provenance(content)],
        missing=missing,
    )


def _checkpoint(folder: Path, missing: list[str]) -> tuple[str, dict[str, Any]]:
    """Name and content of the first checkpoint that can be read; empty without."""
    unread = []
    for name in CHECKPOINTS:
        if not (folder / name).is_file():
            continue
        try:
            content = read_curves(folder / name)
        except (OSError, ValueError) as error:
            unread.append(str(error))
            continue
        missing += [f"{reason}: curves are from {name}." for reason in unread]
        return name, content
    missing.append(f"No curves: {'; '.join(unread)}." if unread else "No checkpoint, so no curves.")
    return "", {}


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


def _json(file: Path, missing: list[str]) -> dict[str, Any]:
    where = f"{file.parent.name}/{file.name}"
    if not file.is_file():
        missing.append(f"No {where}.")
        return {}
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        missing.append(f"{where} cannot be read: {error}.")
        return {}
    if not isinstance(content, dict):
        missing.append(f"{where} holds no object.")
    return dictionary(content)


def _labels(described: Mapping[str, Any], missing: list[str]) -> tuple[dict[str, Label], int]:
    """Foreground labels and regions by name, and the label to ignore, or -1."""
    labels = dict(dictionary(described.get("labels")))
    labels.pop("background", None)
    ignore = labels.pop("ignore", -1)
    known = {name: _label(value) for name, value in labels.items()}
    odd = [name for name, value in known.items() if value is None]
    if not _is_label(ignore):
        odd, ignore = [*odd, "ignore"], -1
    if odd or "labels" in described and not isinstance(described["labels"], dict):
        missing.append(f"dataset.json: labels are not laid out as nnU-Net's: {', '.join(odd) or 'no object'}.")
    return {name: value for name, value in known.items() if value is not None}, ignore


def _label(value: Any) -> Label | None:
    if _is_label(value):
        return int(value)
    return tuple(value) if isinstance(value, list) and value and all(map(_is_label, value)) else None


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 2**31


def _planned(plans: Mapping[str, Any], name: str, missing: list[str]) -> dict[str, Any]:
    """Of a configuration; what it does not say is said by the one that it inherits from."""
    configurations, seen = dictionary(plans.get("configurations")), list[str]()
    planned: dict[str, Any] = {}
    while name not in seen and isinstance(configurations.get(name), dict):
        seen.append(name)
        planned = configurations[name] | planned
        if "inherits_from" not in configurations[name]:
            return dictionary(planned)
        name = configurations[name]["inherits_from"]
        if not isinstance(name, str):
            break
    if plans:
        why = f"inherits from itself: {', '.join(seen)}" if name in seen else "is not there, or is no configuration"
        missing.append(f"plans.json: configuration {text(name) or '(without a name)'} {why}.")
    return dictionary(planned)


Metrics = dict[str, dict[str, float]]  # by key and name


def _summary(
    folder: Path, ending: str, missing: list[str]
) -> tuple[dict[str, Metrics], Metrics, dict[str, tuple[str, str]]]:
    """Metrics by case and key, their means, and the files of each segmented case."""
    summary = _json(folder / "validation" / "summary.json", missing)
    cases: dict[str, Metrics] = {}
    files: dict[str, tuple[str, str]] = {}
    entries, means, nameless = summary.get("metric_per_case"), summary.get("mean"), 0
    if (
        not isinstance(entries, list)
        or not isinstance(means, dict)
        or not all(isinstance(entry, dict) and _two_levels(entry.get("metrics")) for entry in entries)
    ):
        if summary:
            missing.append("validation/summary.json is not laid out as nnU-Net's.")
        return {}, {}, {}
    for entry in entries:
        prediction, reference = entry.get("prediction_file"), entry.get("reference_file")
        name = file_name(prediction).removesuffix(ending) if isinstance(prediction, str) else entry.get("case")
        if not isinstance(name, str):
            nameless += 1
            continue
        cases[name] = {key: numbers(values) for key, values in entry["metrics"].items()}
        if isinstance(prediction, str):
            files[name] = prediction, reference if isinstance(reference, str) else prediction
    if nameless:
        missing.append(f"validation/summary.json: {counted(nameless)} without a name.")
    return cases, {key: numbers(values) for key, values in means.items()}, files


def _two_levels(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values())


def _panels(folder: Path, missing: list[str]) -> list[Panel]:
    try:
        return read_panels(folder)
    except ValueError as error:
        missing.append(f"No reconstructions: {error}.")
        return []

"""Splits with few labelled cases: the rest is pre-trained on without its labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nnunet_topomae.data.dataset_json import read_dataset_json
from nnunet_topomae.data.raw_files import labels_by_case
from nnunet_topomae.files import is_list_of_names, read_json, write_json

LISTS = ("labelled", "unlabelled", "val")
FORMAT = (
    '{"4": {"labelled": [CASE, ...], "unlabelled": [...], "val": [...]}, ...}, 4 being the number of labelled cases'
)


def write_few_label_split(
    description: str | Path, num_labelled: int, preprocessed_dataset: str | Path, overwrite: bool = False
) -> Path:
    """Turn one entry of `few_label_splits.json` into a `splits_final.json` with a single fold; return its path.

    nnU-Net reads the fold's `train` and `val`; only TopoMAEPretrainer looks at the third list, `unlabelled`.

    Raises:
        FileNotFoundError: no description, or the dataset is not preprocessed.
        FileExistsError: there is a split already, and `overwrite` is not set.
        ValueError: as of `few_label_lists`; cases that the dataset does not have.
    """
    description, preprocessed_dataset = Path(description), Path(preprocessed_dataset)
    split_file = preprocessed_dataset / "splits_final.json"
    lists = few_label_lists(description, num_labelled)
    labels = preprocessed_dataset / "gt_segmentations"
    if not labels.is_dir():
        raise FileNotFoundError(f"{labels} does not exist: run nnUNetv2_plan_and_preprocess first")
    if split_file.exists() and not overwrite:
        raise FileExistsError(f"{split_file} exists; overwriting it changes what every fold means")
    ending = read_dataset_json(preprocessed_dataset)["file_ending"]
    missing = sorted({case for cases in lists.values() for case in cases} - set(labels_by_case(labels, ending)))
    if missing:
        raise ValueError(f"{description}, entry {num_labelled}: not in {preprocessed_dataset}: {', '.join(missing)}")
    return write_json(split_file, [as_fold(lists)])


def few_label_lists(description: Path, num_labelled: int) -> dict[str, list[str]]:
    """An entry of a file that maps numbers of labelled cases to lists of cases, as `FORMAT` says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no entry of that number, or one of another form; cases that stand in two lists.
    """
    if not description.is_file():
        raise FileNotFoundError(f"{description} does not exist: name a file with {FORMAT}")
    entries = read_json(description)
    if not isinstance(entries, dict):
        raise ValueError(f"{description} must have {FORMAT}")
    if str(num_labelled) not in entries:
        raise ValueError(f"{description} has no split with {num_labelled} labelled cases, only {', '.join(entries)}")
    entry, where = entries[str(num_labelled)], f"{description}, entry {num_labelled}"
    if not (isinstance(entry, dict) and all(is_list_of_names(entry.get(name)) for name in LISTS)):
        raise ValueError(f"{where}: there must be lists of cases {', '.join(LISTS)}")
    lists = {name: entry[name] for name in LISTS}
    listed = [case for cases in lists.values() for case in cases]
    repeated = sorted({case for case in listed if listed.count(case) > 1})
    if repeated:
        raise ValueError(f"{where}: more than once: {', '.join(repeated)}")
    if len(lists["labelled"]) != num_labelled or not lists["val"]:
        numbers = " and ".join(f"{len(lists[name])} in {name}" for name in ("labelled", "val"))
        raise ValueError(f"{where}: there are {numbers}, instead of {num_labelled} and at least one")
    return lists


def as_fold(entry: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """An entry of `few_label_splits.json` as a fold of `splits_final.json`."""
    return {"train": entry["labelled"], "val": entry["val"], "unlabelled": entry["unlabelled"]}

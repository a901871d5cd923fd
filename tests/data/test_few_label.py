from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_topomae.data.few_label import write_few_label_split


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    labels = tmp_path / "gt_segmentations"
    labels.mkdir()
    for case in "abcdef":
        (labels / f"{case}.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", "labels": {}, "channel_names": {}}))
    return tmp_path


def describe(folder: Path, **entry: list[str]) -> Path:
    file = folder / "few_label_splits.json"
    file.write_text(json.dumps({"2": {"labelled": ["a", "b"], "unlabelled": ["c", "d"], "val": ["e", "f"]} | entry}))
    return file


def test_one_fold_with_the_unlabelled_cases_beside_it(dataset: Path) -> None:
    written = write_few_label_split(describe(dataset), 2, dataset)
    assert written == dataset / "splits_final.json"
    assert json.loads(written.read_text()) == [{"train": ["a", "b"], "val": ["e", "f"], "unlabelled": ["c", "d"]}]


@pytest.mark.parametrize(
    ("entry", "labels", "message"),
    [
        ({}, 3, "no split with 3 labelled cases, only 2"),
        ({"val": ["a", "e"]}, 2, "more than once: a"),
        ({"unlabelled": ["c", "x"]}, 2, "not in .*: x"),
        ({"unlabelled": None}, 2, "must be lists of cases labelled, unlabelled, val"),
        ({"val": [3]}, 2, "must be lists of cases labelled, unlabelled, val"),
        ({"labelled": ["a"]}, 2, "1 in labelled and 2 in val, instead of 2 and at least one"),
        ({"val": []}, 2, "2 in labelled and 0 in val"),
        ({"val": "e"}, 2, "must be lists of cases labelled, unlabelled, val"),
    ],
)
def test_bad_descriptions_are_refused(dataset: Path, entry: dict, labels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_few_label_split(describe(dataset, **entry), labels, dataset)
    assert not (dataset / "splits_final.json").exists()


def test_what_is_missing_is_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.json does not exist"):
        write_few_label_split(dataset / "nowhere.json", 2, dataset)
    with pytest.raises(FileNotFoundError, match="run nnUNetv2_plan_and_preprocess first"):
        write_few_label_split(describe(dataset), 2, dataset / "raw_only")


@pytest.mark.parametrize(
    ("modules", "strangers"),
    [
        (["few_label", "raw_files"], ["torch", "nnunetv2", "nnunet_topomae.networks"]),
        (["unlabelled_preprocessing", "checks"], ["nnunet_topomae.networks", "nnunet_topomae.training"]),
    ],
)
def test_data_knows_nothing_of_networks(modules: list[str], strangers: list[str]) -> None:
    imported = "; ".join(f"import nnunet_topomae.data.{module}" for module in modules)
    program = f"import sys; {imported}; print(*(set({strangers}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == ""

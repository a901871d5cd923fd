from __future__ import annotations

import glob
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy

from nnunet_topomae.data import case_facts
from nnunet_topomae.data.case_facts import read_cases, read_fingerprints
from nnunet_topomae.data.checks import LabelRange, check_cases
from nnunet_topomae.data.volume_facts import volume_facts

CASES = ("a", "b[1]", "c.3")


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 10, 6, 5)).astype(np.float32)


@pytest.fixture(params=[nnUNetDatasetBlosc2, nnUNetDatasetNumpy])
def dataset(request, tmp_path: Path):
    """Cases of images 0, 1, 2; `.read` lists the cases whose files were opened."""

    class Watched(request.param):
        def load_case(self, identifier: str):
            self.read.append(identifier)
            return super().load_case(identifier)

    folder = tmp_path / "images"
    folder.mkdir()
    for seed, case in enumerate(CASES):
        save(Watched, folder / case, seed)
    dataset = Watched(str(folder), list(CASES))
    dataset.read = []
    return dataset


def save(dataset_class, path: Path, seed: int, label: int = 0, settled: bool = True) -> None:
    """`settled`: a minute ago."""
    for suffix in (".b2nd", "_seg.b2nd"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    kwargs = {"chunks": (1, 4, 4, 4), "blocks": (1, 2, 4, 4)} if issubclass(dataset_class, nnUNetDatasetBlosc2) else {}
    dataset_class.save_case(image(seed), np.full((1, 10, 6, 5), label, np.int8), {}, str(path), **kwargs)
    for file in path.parent.glob(f"{glob.escape(path.name)}*") if settled else ():
        os.utime(file, (time.time() - 60 + seed,) * 2)


def test_facts_are_those_of_the_voxels(dataset) -> None:
    facts = read_cases(dataset, CASES, with_labels=True).facts
    for seed, case in enumerate(CASES):
        voxels = image(seed)
        assert facts[case].image == volume_facts(voxels)
        assert facts[case].image[:4] == (list(voxels.shape), voxels.min(), voxels.max(), 0)
        assert facts[case].label == ([1, 10, 6, 5], 0, 0, 0, None)


def test_a_second_reading_opens_no_file(dataset) -> None:
    first = read_cases(dataset, CASES, with_labels=True)
    assert sorted(dataset.read) == sorted(CASES)
    for with_labels in (True, False):
        assert read_cases(dataset, CASES, with_labels).facts == first.facts
    assert len(dataset.read) == len(CASES)
    assert read_fingerprints(dataset, ["a"]) == {"a": volume_facts(image(0)).fingerprint}


def test_labels_are_read_when_they_are_first_asked_for(dataset) -> None:
    assert read_cases(dataset, CASES, with_labels=False).facts["a"].label is None
    assert read_cases(dataset, CASES, with_labels=True).facts["a"].label is not None
    assert read_cases(dataset, CASES, with_labels=False).facts["a"].label is not None, "and not forgotten"
    assert len(dataset.read) == 2 * len(CASES)


def test_only_what_changed_is_read_again(dataset) -> None:
    read_cases(dataset, CASES, with_labels=True)
    dataset.read.clear()
    save(type(dataset), Path(dataset.source_folder, "a"), seed=9, label=5)
    facts = read_cases(dataset, CASES, with_labels=True).facts
    assert dataset.read == ["a"]
    assert facts["a"].image.fingerprint == volume_facts(image(9)).fingerprint and facts["a"].label.highest == 5


def test_a_change_within_a_moment_and_of_equal_size_is_seen(dataset) -> None:
    """A file's time moves on in steps of some milliseconds, or of two seconds."""
    for seed in range(20, 30):
        save(type(dataset), Path(dataset.source_folder, "a"), seed, settled=False)
        assert read_fingerprints(dataset, ["a"]) == {"a": volume_facts(image(seed)).fingerprint}


def test_the_verdict_is_not_remembered_but_made_anew(dataset) -> None:
    save(type(dataset), Path(dataset.source_folder, "a"), seed=0, label=2)
    assert check_cases(dataset, CASES, LabelRange(-1, 2)) == []
    with pytest.raises(ValueError, match="1 of 3 (.|\n)*  a: labels reach from 2 to 2, dataset.json allows -1 to 1"):
        check_cases(dataset, CASES, LabelRange(-1, 1))


def test_what_cannot_be_read_is_tried_again(dataset) -> None:
    (file,) = (file for file in Path(dataset.source_folder).iterdir() if file.name in ("a.b2nd", "a.npz"))
    content = file.read_bytes()
    file.write_bytes(content[:50])
    for _ in range(2):
        reading = read_cases(dataset, CASES, with_labels=False)
        assert reading.faults.keys() == {"a"} and reading.facts.keys() == {"b[1]", "c.3"}
    file.write_bytes(content)
    assert not read_cases(dataset, CASES, with_labels=False).faults


@pytest.mark.parametrize("content", ["", "[]", '{"version": 0, "cases": {"a": 1}}', '{"version": 1}'])
def test_a_memory_that_cannot_be_read_is_none(dataset, content: str) -> None:
    first = read_cases(dataset, CASES, with_labels=True)
    memory = Path(f"{dataset.source_folder}_checked.json")
    assert memory.is_file()
    memory.write_text(content)
    assert read_cases(dataset, CASES, with_labels=True).facts == first.facts
    assert json.loads(memory.read_text())["cases"].keys() == set(CASES)


def test_an_interrupted_reading_is_remembered_as_far_as_it_came(dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_facts, "default_num_processes", 1)
    load_case = type(dataset).load_case

    def interrupted(self, identifier: str):
        if identifier == CASES[1] and len(self.read) == 1:
            raise KeyboardInterrupt
        return load_case(self, identifier)

    monkeypatch.setattr(type(dataset), "load_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_cases(dataset, CASES, with_labels=False)
    monkeypatch.undo()
    dataset.read.clear()
    read_cases(dataset, CASES, with_labels=False)
    assert sorted(dataset.read) == sorted(CASES[1:])


def test_two_trainings_that_begin_together_leave_a_whole_memory(dataset) -> None:
    threads = [threading.Thread(target=read_cases, args=(dataset, CASES, True)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dataset.read.clear()
    read_cases(dataset, CASES, with_labels=True)
    assert not dataset.read
    assert [file.name for file in Path(dataset.source_folder).parent.glob("images_checked*")] == ["images_checked.json"]


def test_a_memory_that_cannot_be_written_is_said(dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(case_facts, "write_json", full)
    with pytest.warns(UserWarning, match="images_checked.json cannot be written .No space left.*read all cases again"):
        assert check_cases(dataset, CASES, None) == []


def test_a_damaged_segmentation_of_the_previous_stage_is_found_each_time(dataset, tmp_path: Path) -> None:
    previous = tmp_path / "previous"
    previous.mkdir()
    for case in CASES:
        type(dataset).save_seg(np.zeros((1, 10, 6, 5), np.int8), str(previous / case))
    dataset.folder_with_segs_from_previous_stage = str(previous)
    assert not read_cases(dataset, CASES, with_labels=True).faults
    (file,) = previous.glob("a.*")
    file.write_bytes(file.read_bytes()[:20])
    assert read_cases(dataset, CASES, with_labels=True).faults.keys() == {"a"}

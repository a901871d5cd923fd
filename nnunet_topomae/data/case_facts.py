"""What was read of each preprocessed case, remembered beside the data: a second training need not read them again.

A case is read again when one of its files has another size or time of change, or is another file altogether. The memory
of `nnUNetPlans_3d_fullres` is `nnUNetPlans_3d_fullres_checked.json` beside that folder; it may be deleted at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.configuration import default_num_processes
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from tqdm import tqdm

from nnunet_topomae.data.volume_facts import VolumeFacts, volume_facts
from nnunet_topomae.files import read_json, write_json

VERSION = 1
SUFFIXES = (".b2nd", "_seg.b2nd", ".npz", ".npy", "_seg.npy", ".pkl")  # of the files that make a case
SETTLED = 2 * 10**9  # ns: a file changed twice within may keep its time, where the file system counts whole seconds

Stamps = dict[str, list[int]]  # of each file of a case: size in bytes, time of change in ns


class CaseFacts(NamedTuple):
    """Of an image, and of its label where that was read."""

    image: VolumeFacts
    label: VolumeFacts | None


class Reading(NamedTuple):
    """What came of reading cases.

    Attributes:
        facts: by case.
        faults: by case that cannot be read, why not.
        not_remembered: why something could not be remembered.
    """

    facts: dict[str, CaseFacts]
    faults: dict[str, str]
    not_remembered: list[str]


def read_cases(dataset: nnUNetBaseDataset, cases: Sequence[str], with_labels: bool) -> Reading:
    """The facts of the cases, out of the memory where they are, else out of the files.

    Decompression releases the interpreter lock: as many threads read as nnU-Net uses processes (`nnUNet_def_n_proc`),
    each a few slices at a time. What was read until an interruption is remembered, too.

    Args:
        dataset: preprocessed by nnU-Net; its `parts` where it joins several.
        cases: to be read.
        with_labels: False leaves the labels unread.
    """
    reading = Reading({}, {}, [])
    for part in getattr(dataset, "parts", [dataset]):
        if of_part := sorted(set(cases).intersection(part.identifiers)):
            _read_folder(part, of_part, with_labels, reading)
    return reading


def read_fingerprints(dataset: nnUNetBaseDataset, cases: Sequence[str]) -> dict[str, str]:
    """Of the image of each case. Raises ValueError for one that cannot be read."""
    reading = read_cases(dataset, cases, with_labels=False)
    if reading.faults:
        named = "; ".join(f"{case}: {fault}" for case, fault in reading.faults.items())
        raise ValueError(f"cases in {dataset.source_folder} cannot be read: {named}")
    return {case: str(facts.image.fingerprint) for case, facts in reading.facts.items()}


def _read_folder(dataset: nnUNetBaseDataset, cases: Sequence[str], with_labels: bool, reading: Reading) -> None:
    memory = Path(f"{dataset.source_folder}_checked.json")
    stored, now = _stored(memory), time.time_ns()
    stamps = {case: _stamps(Path(dataset.source_folder), case) for case in cases}
    known = {case: _facts(stored[case]) for case in cases if case in stored and stored[case]["stamps"] == stamps[case]}
    known = {case: facts for case, facts in known.items() if facts.label or not with_labels}

    def read(case: str) -> CaseFacts | str:
        try:
            image, label, _, _ = dataset.load_case(case)
            if case in known:
                return known[case]
            return CaseFacts(volume_facts(image), volume_facts(label, with_fingerprint=False) if with_labels else None)
        except Exception as error:  # a truncated file fails in as many ways as there are readers
            return f"cannot be read ({type(error).__name__}: {error})"

    new = {}
    is_cascade = dataset.folder_with_segs_from_previous_stage is not None  # of whose files the memory knows nothing
    reading.facts.update({} if is_cascade else known)
    try:
        for case, result in _in_threads(read, [case for case in cases if case not in reading.facts]):
            if isinstance(result, str):
                reading.faults[case] = result
            else:
                new[case] = reading.facts[case] = result
    finally:
        entries = {
            case: {"stamps": stamps[case], "facts": facts}
            for case, facts in new.items()
            if stamps[case] and max(time_ns for _, time_ns in stamps[case].values()) < now - SETTLED
        }
        try:
            if entries:  # beside what a training that began together with this one has written
                write_json(memory, {"version": VERSION, "cases": _stored(memory) | entries}, indent=None)
        except OSError as error:
            reading.not_remembered.append(
                f"{memory} cannot be written ({error.strerror}): each training will read all cases again"
            )


def _in_threads(read: Callable[[str], Any], cases: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each case with what `read` returns for it."""
    pool = ThreadPoolExecutor(default_num_processes)
    try:
        results = pool.map(read, cases)
        disable = None if cases else True  # None: where there is no terminal
        yield from zip(cases, tqdm(results, "Checking cases", len(cases), disable=disable), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _stamps(folder: Path, case: str) -> Stamps:
    """Of the files of a case, as they are now. A format that nnU-Net itself does not have has none."""
    files = [file for suffix in SUFFIXES if (file := folder / f"{case}{suffix}").is_file()]
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _stored(memory: Path) -> dict[str, Any]:
    try:
        content = read_json(memory)
        return content["cases"] if content["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or one that another version wrote
        return {}


def _facts(entry: Mapping[str, Any]) -> CaseFacts:
    return CaseFacts(*(volume and VolumeFacts(*volume) for volume in entry["facts"]))

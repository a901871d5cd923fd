"""What was read of each preprocessed case, remembered beside the data: a second training need not read them again.

A case is read again when one of its files has another size or time of change, or is another file altogether. The memory
of `nnUNetPlans_3d_fullres` is `nnUNetPlans_3d_fullres_checked.json` beside that folder; it may be deleted at any time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.configuration import default_num_processes
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from tqdm import tqdm

from nnunet_topomae.data.fingerprint import VoxelFingerprint, volume_slices
from nnunet_topomae.files import read_json, write_json

VERSION = 1
SUFFIXES = (".b2nd", "_seg.b2nd", ".npz", ".npy", "_seg.npy", ".pkl")  # of the files that make a case
TICK = 0.05  # seconds: what is changed twice within may carry one time
COARSE_TICK = 2.0  # where the file system keeps whole seconds

Stamps = dict[str, list[int]]  # of each file of a case: size in bytes, time of change in ns


class VolumeFacts(NamedTuple):
    """Of one volume [C, D, H, W].

    Attributes:
        shape: of all four axes.
        lowest, highest: of its finite voxels; NaN if there are none.
        non_finite: number of voxels that are NaN or infinite.
        fingerprint: of its voxels; None of a label.
    """

    shape: list[int]
    lowest: float
    highest: float
    non_finite: int
    fingerprint: str | None


class CaseFacts(NamedTuple):
    """Of an image, and of its label where that was read."""

    image: VolumeFacts
    label: VolumeFacts | None


class Reading(NamedTuple):
    """What came of reading cases.

    Attributes:
        facts: by case.
        faults: by case that cannot be read, why not.
        not_remembered: why nothing could be remembered; None if it was.
    """

    facts: dict[str, CaseFacts]
    faults: dict[str, str]
    not_remembered: str | None = None


def read_cases(dataset: nnUNetBaseDataset, cases: Sequence[str], with_labels: bool) -> Reading:
    """The facts of the cases, out of the memory where they are, else out of the files.

    Decompression releases the interpreter lock: as many threads read as nnU-Net uses processes (`nnUNet_def_n_proc`),
    each a few slices at a time. What was read until an interruption is remembered, too.

    Args:
        dataset: preprocessed by nnU-Net; its `parts` where it joins several.
        cases: to be read.
        with_labels: False leaves the labels unread.
    """
    if parts := getattr(dataset, "parts", None):
        wanted = set(cases)
        return _joined([read_cases(part, sorted(wanted & set(part.identifiers)), with_labels) for part in parts])
    if not cases:
        return Reading({}, {})
    memory = _Memory(dataset.source_folder)
    stamps = memory.stamps(cases)
    facts = {case: found for case, found in memory.facts(stamps).items() if found.label or not with_labels}
    faults = {}
    if dataset.folder_with_segs_from_previous_stage is not None:  # a cascade's: the memory knows nothing of them
        opened = _in_threads(lambda case: _opening_fault(dataset, case), facts)
        faults = {case: fault for case, fault in opened if fault}
    new: dict[str, CaseFacts] = {}
    try:
        to_read = [case for case in cases if case not in facts]
        for case, result in _in_threads(lambda case: _read(dataset, case, with_labels), to_read):
            (faults if isinstance(result, str) else new)[case] = result
    finally:
        not_remembered = memory.remember(new, stamps)
    return Reading(facts | new, faults, not_remembered)


def _in_threads(read: Callable[[str], Any], cases: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Each case with what `read` returns for it."""
    pool = ThreadPoolExecutor(default_num_processes)
    try:
        results = pool.map(read, cases)
        disable = None if cases else True  # None: where there is no terminal
        yield from zip(cases, tqdm(results, "Checking cases", len(cases), disable=disable), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _joined(readings: Sequence[Reading]) -> Reading:
    return Reading(
        {case: facts for reading in readings for case, facts in reading.facts.items()},
        {case: fault for reading in readings for case, fault in reading.faults.items()},
        "; ".join(reading.not_remembered for reading in readings if reading.not_remembered) or None,
    )


def read_fingerprints(dataset: nnUNetBaseDataset, cases: Sequence[str]) -> dict[str, str]:
    """Of the image of each case. Raises ValueError for one that cannot be read."""
    reading = read_cases(dataset, cases, with_labels=False)
    if reading.faults:
        named = "; ".join(f"{case}: {fault}" for case, fault in reading.faults.items())
        raise ValueError(f"cases in {dataset.source_folder} cannot be read: {named}")
    return {case: str(facts.image.fingerprint) for case, facts in reading.facts.items()}


def _read(dataset: nnUNetBaseDataset, case: str, with_label: bool) -> CaseFacts | str:
    try:
        image, label, _, _ = dataset.load_case(case)
        return CaseFacts(volume_facts(image), volume_facts(label, with_fingerprint=False) if with_label else None)
    except Exception as error:  # a truncated file fails in as many ways as there are readers
        return _unreadable(error)


def _opening_fault(dataset: nnUNetBaseDataset, case: str) -> str | None:
    try:
        dataset.load_case(case)
    except Exception as error:
        return _unreadable(error)
    return None


def _unreadable(error: Exception) -> str:
    return f"cannot be read ({type(error).__name__}: {error})"


def volume_facts(volume: Any, with_fingerprint: bool = True) -> VolumeFacts:
    """Of an array [C, D, H, W], or of a compressed one that gives arrays for slices."""
    fingerprint, extremes, non_finite = VoxelFingerprint(volume.shape), [], 0
    for slices in volume_slices(volume):
        if with_fingerprint:
            fingerprint.update(slices)
        finite = slices if np.isfinite([slices.min(), slices.max()]).all() else slices[np.isfinite(slices)]
        non_finite += slices.size - finite.size
        if finite.size:
            extremes += [float(finite.min()), float(finite.max())]
    lowest, highest = (min(extremes), max(extremes)) if extremes else (math.nan, math.nan)
    shape = [int(side) for side in volume.shape]
    return VolumeFacts(shape, lowest, highest, non_finite, str(fingerprint) if with_fingerprint else None)


class _Memory:
    """The file beside a folder of preprocessed cases."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.file = self.folder.with_name(f"{self.folder.name}_checked.json")

    def stamps(self, cases: Iterable[str]) -> dict[str, Stamps]:
        """Of the files of each case, as they are now. A format that nnU-Net itself does not have has none."""
        present = {entry.name: entry for entry in os.scandir(self.folder)}

        def stamp(entry: os.DirEntry[str]) -> list[int]:
            status = entry.stat()
            return [status.st_size, status.st_mtime_ns]

        names = {case: [name for suffix in SUFFIXES if (name := f"{case}{suffix}") in present] for case in cases}
        return {case: {name: stamp(present[name]) for name in of_case} for case, of_case in names.items() if of_case}

    def facts(self, stamps: Mapping[str, Stamps]) -> dict[str, CaseFacts]:
        """Of those cases whose files bore the same stamps when they were read."""
        stored = self._stored()
        return {
            case: CaseFacts(*(volume and VolumeFacts(*volume) for volume in stored[case]["facts"]))
            for case, of_case in stamps.items()
            if case in stored and stored[case]["stamps"] == of_case
        }

    def remember(self, facts: Mapping[str, CaseFacts], stamps: Mapping[str, Stamps]) -> str | None:
        """Store what was read of files that bore these stamps before; returns why it could not, if it could not.

        Trainings that begin together may write together: each adds to what is there, and the file is replaced as a
        whole. At worst one forgets what the other has read.
        """
        stamped = facts.keys() & stamps
        if not stamped:
            return None
        _wait_out(max(time_ns for case in stamped for _, time_ns in stamps[case].values()))
        now = self.stamps(stamped)
        entries = {case: {"stamps": now[case], "facts": facts[case]} for case in now if stamps[case] == now[case]}
        try:
            write_json(self.file, {"version": VERSION, "cases": {**self._stored(), **entries}}, indent=None)
        except OSError as error:
            return f"{self.file} cannot be written ({error.strerror}): each training will read all cases again"
        return None

    def _stored(self) -> dict[str, Any]:
        try:
            content = read_json(self.file)
            return content["cases"] if content["version"] == VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or one that another version wrote
            return {}


def _wait_out(changed_ns: int) -> None:
    """Until a file that is changed after this moment has another time of change than `changed_ns`."""
    tick = TICK if changed_ns % 10**9 else COARSE_TICK
    left = changed_ns / 1e9 + tick - time.time()
    if 0 < left <= tick:
        time.sleep(left)

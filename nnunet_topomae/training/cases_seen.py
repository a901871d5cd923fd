"""The record in each checkpoint of the cases that its weights have seen, in this training and in those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CasesSeen = dict[str, dict[str, str]]  # by dataset: names of its cases by the fingerprint of their voxels


def merged(*records: Mapping[str, Mapping[str, str]]) -> CasesSeen:
    """All of them in one."""
    datasets = {dataset for record in records for dataset in record}
    return {
        dataset: {fingerprint: case for record in records for fingerprint, case in record.get(dataset, {}).items()}
        for dataset in sorted(datasets)
    }


def seen_before(dataset: str, fingerprints: Mapping[str, str], seen: CasesSeen) -> list[str]:
    """Which cases of a dataset, given with their fingerprints, are in the record: each with how it is known.

    By name within the dataset, whatever preprocessing it went through; by its voxels wherever they come from.
    """
    known = []
    for case, fingerprint in fingerprints.items():
        copies = [f"{cases[fingerprint]} of {origin}" for origin, cases in seen.items() if fingerprint in cases]
        if case in seen.get(dataset, {}).values():
            known.append(case)
        elif copies:
            known.append(f"{case} (the same voxels as {copies[0]})")
    return known


def recorded_cases(checkpoint: Mapping[str, Any]) -> CasesSeen | None:
    """The record in a checkpoint, or in what was exported of one; None where there is none, as in older ones."""
    try:
        record = checkpoint.get("cases_seen") or checkpoint["init_args"]["cases_seen"]
        return {str(name): {str(key): str(case) for key, case in cases.items()} for name, cases in record.items()}
    except (KeyError, TypeError, AttributeError):
        return None


def without_names(record: CasesSeen) -> CasesSeen:
    """For a file that others get: voxels still tell a case, its name, which may be a patient's, does not."""
    return {dataset: {fingerprint: "a case" for fingerprint in sorted(cases)} for dataset, cases in record.items()}

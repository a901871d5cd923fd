"""Validation cases that the weights have been trained on before: their scores say nothing.

Every checkpoint of our trainers records the cases that its weights have seen, in this training and in those before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_topomae.data.case_facts import read_fingerprints
from nnunet_topomae.private_names import init_args
from nnunet_topomae.training.resumable import ResumableTrainer

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


class CaseRecordingTrainer(ResumableTrainer):
    """nnU-Net's trainer that knows which cases its weights have been trained on, and validates on no such case.

    Attributes:
        validation_was_checked: whether the validation cases of this run were looked up in the record.
    """

    validation_was_checked = False

    @property
    def cases_seen(self) -> CasesSeen:
        """The record so far; a checkpoint keeps it among nnU-Net's `init_args`."""
        return init_args(self).setdefault("cases_seen", {})

    def record_cases_seen(self, checkpoint: object, record: CasesSeen | None) -> None:
        """Takes over the record of a checkpoint whose weights this training begins with; None: it has none."""
        if record is None:
            self.print_to_log_file(
                f"{checkpoint} does not record the cases that it was trained on, as older versions did not: validation "
                "cases among them cannot be told"
            )
        init_args(self)["cases_seen"] = merged(self.cases_seen, record or {})

    def record_training_cases(self, cases: Sequence[str]) -> None:
        """Adds cases of this dataset; those that a resumed training has recorded at its start are not read again."""
        dataset = self.plans_manager.dataset_name
        recorded = set(self.cases_seen.get(dataset, {}).values()) if self.current_epoch > 0 else set()
        new = [case for case in cases if case not in recorded]
        fingerprints = read_fingerprints(self.dataset_of(new), new)
        init_args(self)["cases_seen"] = merged(
            self.cases_seen,
            # nnU-Net's own splits hold NumPy's strings, which PyTorch's restricted reader does not take.
            {dataset: {fingerprint: str(case) for case, fingerprint in fingerprints.items()}},
        )

    def refuse_seen_validation_cases(self) -> None:
        """Raises ValueError, or warns, as the knob says. A split with a case in both of its lists means it so."""
        train_keys, val_keys = self.do_split()
        cases = sorted(set(val_keys) - set(train_keys))
        fingerprints = read_fingerprints(self.dataset_of(cases), cases)
        known = seen_before(self.plans_manager.dataset_name, fingerprints, self.cases_seen)
        if not known:
            return
        message = (
            f"{len(known)} of {len(cases)} validation cases of fold {self.fold} are among those that these weights "
            f"have been trained on, so that their scores would say nothing: {', '.join(known)}."
        )
        if self.config.seen_validation_cases == "refuse":
            raise ValueError(
                f"{message} Take them out of the split, or begin with a pre-training of this split, or from scratch; "
                "NNUNET_TOPOMAE_SEEN_VALIDATION_CASES=warn goes on all the same"
            )
        self.print_to_log_file(f"WARNING: {message}")

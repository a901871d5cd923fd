"""Validation cases that the weights have been trained on before: their scores say nothing."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_topomae.data.case_facts import read_fingerprints
from nnunet_topomae.private_names import init_args
from nnunet_topomae.training.cases_seen import CasesSeen, merged, seen_before
from nnunet_topomae.training.resumable import ResumableTrainer


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
                f"{checkpoint} does not record the cases that it was trained on, as older versions and exports without "
                "--fingerprints do not: validation cases among them cannot be told"
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

    def check_validation_alone(self) -> None:
        """For `nnUNetv2_train --val`, which trains nothing."""
        if not self.validation_was_checked:
            self.refuse_seen_validation_cases()

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

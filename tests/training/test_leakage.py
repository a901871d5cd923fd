"""Validation cases that pre-training has seen are refused, whatever name they or the checkpoint have."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunet_topomae.training.cases_seen import merged, recorded_cases, seen_before
from nnunet_topomae.training.finetuner import TopoMAEFinetuner, TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

SEEN = {"Dataset001_A": {"11": "a", "22": "b"}, "Dataset002_B": {"33": "a"}}


def test_a_case_is_known_by_its_name_in_its_dataset_or_by_its_voxels_anywhere():
    assert seen_before("Dataset001_A", {"a": "99", "c": "88"}, SEEN) == ["a"]  # preprocessed otherwise
    assert seen_before("Dataset002_B", {"b": "99"}, SEEN) == []
    assert seen_before("Dataset003_C", {"z": "22", "a": "0"}, SEEN) == ["z (the same voxels as b of Dataset001_A)"]


def test_records_are_merged_by_voxels():
    more = {"Dataset001_A": {"55": "a"}, "Dataset004_D": {}}
    assert merged(SEEN, more, {}) == SEEN | {"Dataset001_A": {"11": "a", "22": "b", "55": "a"}, "Dataset004_D": {}}


def test_a_checkpoint_without_a_record_is_an_older_one():
    for content in ({}, {"init_args": {"plans": {}}}, {"init_args": None}, {"init_args": {"cases_seen": 3}}):
        assert recorded_cases(content) is None


def split(workshop, train: list[str], val: list[str]) -> None:
    (workshop.dataset / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))


def copy_case(workshop, case: str, name: str) -> str:
    for file in workshop.images.glob(f"{case}*"):
        shutil.copyfile(file, file.with_name(file.name.replace(case, name)))
    return name


@pytest.fixture
def cases(workshop) -> list[str]:
    """Of the dataset; the split trains on the first three and validates on the fourth."""
    cases = sorted(file.stem for file in workshop.images.glob("*.pkl"))
    split(workshop, cases[:3], cases[3:4])
    return cases


def started(trainer):
    """As after the first lines of a training, without its epochs; the final checkpoint is there."""
    trainer.on_train_start()
    trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    return trainer


@pytest.fixture
def pretrained(workshop, cases) -> Path:
    trainer = started(workshop.build(TopoMAEPretrainer, weight_topology=0))
    return Path(trainer.output_folder, "checkpoint_final.pth")


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


def test_the_checkpoint_records_names_and_voxels(workshop, cases, pretrained):
    (names,) = recorded_cases(torch.load(pretrained, weights_only=True)).values()
    assert sorted(names.values()) == cases[:3] and all(len(fingerprint) == 32 for fingerprint in names)
    finetuned = started(workshop.build(TopoMAEFinetuner))
    assert finetuned.cases_seen == {"Dataset100_Phantom": names}


def test_the_record_of_a_split_that_nnunet_has_drawn_is_read_without_running_code(workshop):
    trainer = started(workshop.build(TopoMAEPretrainer, weight_topology=0))
    content = torch.load(Path(trainer.output_folder, "checkpoint_final.pth"), weights_only=True)
    assert recorded_cases(content) == trainer.cases_seen


def test_a_split_that_was_changed_after_pretraining_is_refused(workshop, cases, pretrained):
    split(workshop, cases[1:4], cases[:1])
    message = f"1 of 1 validation cases of fold 0 are among those.*: {cases[0]}. .*SEEN_VALIDATION_CASES=warn"
    with pytest.raises(ValueError, match=message):
        workshop.build(TopoMAEFinetuner).run_training()
    with pytest.raises(ValueError, match=message):
        workshop.build(TopoMAEFinetuner, pretrained=str(pretrained)).run_training()
    trainer = started(workshop.build(TopoMAEFinetuner, seen_validation_cases="warn"))
    assert "WARNING: 1 of 1 validation cases of fold 0 are among those that these weights" in log_of(trainer)
    started(workshop.build(TopoMAEFinetunerFromScratch))


def test_a_copy_under_another_name_is_refused(workshop, cases, pretrained, tmp_path):
    pretrained.rename(tmp_path / "renamed.pth")
    copy = copy_case(workshop, cases[0], "copy_000")
    split(workshop, cases[1:3], [cases[3], copy])
    with pytest.raises(ValueError, match=f"1 of 2.*: {copy} .the same voxels as {cases[0]} of Dataset100_Phantom"):
        workshop.build(TopoMAEFinetuner, pretrained=str(tmp_path / "renamed.pth")).run_training()


@pytest.mark.parametrize("trainer_class", [TopoMAEPretrainer, TopoMAEFinetunerFromScratch])
def test_no_copy_of_a_training_case_validates(workshop, cases, trainer_class):
    copy = copy_case(workshop, cases[0], "copy_000")
    split(workshop, cases[:3], [copy])
    with pytest.raises(ValueError, match=f"{copy} .the same voxels as {cases[0]}"):
        workshop.build(trainer_class, weight_topology=0).run_training()


def test_a_split_that_validates_on_its_training_cases_means_it(workshop, cases):
    split(workshop, cases[:3], cases[2:4])
    for trainer_class in (TopoMAEPretrainer, TopoMAEFinetuner):
        started(workshop.build(trainer_class, weight_topology=0))


def test_a_resumed_training_remembers_what_it_saw_before(workshop, cases, pretrained):
    split(workshop, cases[1:3], cases[:1])
    resumed = workshop.build(TopoMAEPretrainer, pretrain_epochs=2)
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    with pytest.raises(ValueError, match=f"validation cases of fold 0.*: {cases[0]}"):
        resumed.run_training()
    split(workshop, cases[4:5], cases[3:4])
    resumed = workshop.build(TopoMAEPretrainer)
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    started(resumed)
    (names,) = recorded_cases(torch.load(pretrained, weights_only=True)).values()
    assert sorted(names.values()) == [*cases[:3], cases[4]]


@pytest.mark.parametrize("trainer_class", [TopoMAEPretrainer, TopoMAEFinetunerFromScratch])
def test_validation_alone_is_refused_where_the_split_was_changed(workshop, cases, trainer_class):
    started(workshop.build(trainer_class, weight_topology=0))
    split(workshop, cases[1:4], cases[:1])
    trainer = workshop.build(trainer_class)
    maybe_load_checkpoint(trainer, continue_training=False, validation_only=True)
    with pytest.raises(ValueError, match=f"validation cases of fold 0.*: {cases[0]}"):
        trainer.perform_actual_validation()


def test_nnunets_option_for_weights_is_looked_at_too(workshop, cases, monkeypatch, tmp_path):
    earlier = started(workshop.build(TopoMAEFinetunerFromScratch))
    file = Path(earlier.output_folder, "checkpoint_final.pth").rename(tmp_path / "earlier.pth")
    split(workshop, cases[1:4], cases[:1])
    monkeypatch.setattr(sys, "argv", f"nnUNetv2_train 100 3d_fullres 0 -pretrained_weights {file}".split())
    trainer = workshop.build(TopoMAEFinetunerFromScratch)
    maybe_load_checkpoint(trainer, False, False, str(file))
    with pytest.raises(ValueError, match=f"validation cases of fold 0.*: {cases[0]}"):
        trainer.run_training()


def test_a_checkpoint_of_an_older_version_is_taken_and_the_log_says_what_is_lost(workshop, cases, pretrained):
    content = torch.load(pretrained, weights_only=True)
    del content["init_args"]["cases_seen"]
    torch.save(content, pretrained)
    split(workshop, cases[1:4], cases[:1])
    for trainer, goes_on in ((TopoMAEFinetuner, False), (TopoMAEPretrainer, True)):
        trainer = workshop.build(trainer)
        maybe_load_checkpoint(trainer, goes_on, False)
        started(trainer)
        assert f"{pretrained} does not record the cases that it was trained on" in log_of(trainer)
        assert len(trainer.cases_seen["Dataset100_Phantom"]) == 3

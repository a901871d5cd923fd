"""A training that is interrupted loses little, and ends as it would have ended."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunet_topomae.training.finetuner import TopoMAEFinetuner, TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

CURVES = ("train_losses", "val_losses", "lrs")
BOTH = pytest.mark.parametrize("trainer_class", [TopoMAEPretrainer, TopoMAEFinetunerFromScratch])


def epochs(number: int) -> dict[str, int]:
    return {"pretrain_epochs": number, "finetune_epochs": number, "iterations_per_epoch": 1}


def curves(trainer) -> dict[str, list[float]]:
    return {name: trainer.logger.local_logger.my_fantastic_logging[name] for name in CURVES}


def checkpoint(trainer, name: str) -> Path:
    return Path(trainer.output_folder, f"checkpoint_{name}.pth")


def stop_after_one_epoch(trainer) -> None:
    start = trainer.on_train_epoch_start

    def interrupted() -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        start()

    trainer.on_train_epoch_start = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()


@BOTH
@pytest.mark.parametrize("place", ["workers", "device"])
def test_a_resumed_training_is_the_uninterrupted_one(workshop, trainer_class, place):
    knobs = epochs(2) | {"iterations_per_epoch": 2, "augment_on": place}
    uninterrupted = workshop.build(trainer_class, **knobs)
    uninterrupted.run_training()
    uninterrupted_best = torch.load(checkpoint(uninterrupted, "best"), weights_only=False)["_best_ema"]
    for file in Path(uninterrupted.output_folder).glob("*.pth"):
        file.unlink()

    stop_after_one_epoch(workshop.build(trainer_class, **knobs))
    resumed = workshop.build(trainer_class)  # of one epoch by workers, were the checkpoint's knobs not taken
    leftover = Path(resumed.output_folder, ".12ab.partial.pth")
    leftover.write_bytes(b"killed while writing this")
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    assert resumed.current_epoch == 1
    resumed.run_training()

    assert resumed.augment_on == place
    assert curves(resumed) == curves(uninterrupted)
    assert len(curves(resumed)["lrs"]) == 2
    ours, theirs = resumed.network.state_dict(), uninterrupted.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.load(checkpoint(resumed, "best"), weights_only=False)["_best_ema"] == uninterrupted_best
    assert not checkpoint(resumed, "latest").exists() and not leftover.exists()


def test_the_command_goes_on_after_sigkill(phantom, workshop, monkeypatch):
    """Both trainers; the second command knows nothing of the first one's knobs."""
    monkeypatch.setenv("NNUNET_TOPOMAE_WEIGHT_TOPOLOGY", "0")
    knobs = {"preset": "tiny", "partner": "unetrpp", "seed": 3, "pretrain_lr": 3e-4, "finetune_lr": 3e-4}
    knobs |= {"val_iterations_per_epoch": 1, **epochs(3)}
    knobs = {f"NNUNET_TOPOMAE_{name.upper()}": str(value) for name, value in knobs.items()}
    for trainer in ("TopoMAEPretrainer", "TopoMAEFinetuner"):
        command = ["nnUNetv2_train", phantom.dataset_id, "3d_fullres", 0, "-tr", trainer, "-device", "cpu"]
        fold = workshop.results / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"
        program = Path(sys.executable).parent / command[0]
        killed = subprocess.Popen([program, *map(str, command[1:])], env=os.environ | knobs, stdout=subprocess.DEVNULL)
        while not (fold / "checkpoint_latest.pth").is_file() and killed.poll() is None:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        seen = torch.load(fold / "checkpoint_latest.pth", weights_only=False)
        assert 1 <= seen["current_epoch"] < 3

        phantom.run(*command, "--c", "--npz")
        final = torch.load(fold / "checkpoint_final.pth", weights_only=False)
        assert final["current_epoch"] == 3
        assert {len(curve) for curve in final["logging"].values() if curve} == {3}
        assert final["logging"]["lrs"] == pytest.approx([3e-4, 2.25e-4, 0.75e-4])  # a cosine over three epochs
        assert final["logging"]["train_losses"][: seen["current_epoch"]] == seen["logging"]["train_losses"]
        assert (fold / "validation" / "summary.json").is_file()
    assert len(list((fold / "validation").glob("*.npz"))) == 2

    (fold / "validation" / "summary.json").unlink()
    phantom.run(*command, "--val", "--val_best")
    assert (fold / "validation" / "summary.json").is_file()


@pytest.mark.parametrize(("knob", "here", "there"), [("preset", "small", "tiny"), ("recipe", "paper", "ours")])
def test_the_environment_changes_a_resumed_training_but_not_its_architecture(workshop, monkeypatch, knob, here, there):
    first = workshop.build(TopoMAEPretrainer)
    first.initialize()
    first.save_checkpoint(str(checkpoint(first, "latest")))
    monkeypatch.setenv("NNUNET_TOPOMAE_PRETRAIN_EPOCHS", "7")
    resumed = workshop.build(TopoMAEPretrainer)
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    assert resumed.num_epochs == 7 and resumed.lr_scheduler.num_steps == 7 * resumed.num_iterations_per_epoch
    resumed.save_checkpoint(str(checkpoint(first, "latest")))
    again = torch.load(checkpoint(first, "latest"), weights_only=True)
    assert again["init_args"]["plans"]["topomae"]["pretrain_epochs"] == 7

    monkeypatch.setenv(f"NNUNET_TOPOMAE_{knob.upper()}", here)
    with pytest.raises(ValueError, match=f"latest.pth was trained with {knob} = '{there}', this run has '{here}'"):
        maybe_load_checkpoint(workshop.build(TopoMAEPretrainer), continue_training=True, validation_only=False)


def test_cases_are_read_through_at_the_start_alone(workshop, monkeypatch):
    read = []
    monkeypatch.setattr("nnunet_topomae.training.trainer.check_cases", lambda *arguments: read.append(arguments) or [])
    for epoch in (0, 1):
        trainer = workshop.build(TopoMAEPretrainer)
        trainer.initialize()
        trainer.current_epoch = epoch
        trainer.on_train_start()
    assert len(read) == 1


def test_latest_is_written_each_epoch_unless_that_takes_long(workshop, monkeypatch):
    trainer = workshop.build(TopoMAEPretrainer, **epochs(1000))
    now, saved = [0.0], []

    def save(filename: str) -> None:
        saved.append(trainer.current_epoch + 1)
        now[0] += 2

    monkeypatch.setattr("nnunet_topomae.training.resumable.monotonic", lambda: now[0])
    monkeypatch.setattr(trainer, "save_checkpoint", save)
    for trainer.current_epoch in range(1, 8):
        now[0] += 40
        trainer.save_latest()
    assert saved == [1, 4, 7]  # two seconds in a hundred


def test_a_full_disk_leaves_the_checkpoint_before(workshop):
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    file = checkpoint(trainer, "latest")
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
        with pytest.raises(OSError, match="checkpoint_latest.pth could not be written: .*free some space.*--c"):
            trainer.save_checkpoint(str(file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.glob("checkpoint*")) == ["checkpoint_latest.pth"]


@BOTH
def test_without_checkpointing_no_checkpoint_is_written(workshop, trainer_class):
    trainer = workshop.build(trainer_class, **epochs(2))
    trainer.disable_checkpointing = True
    trainer.run_training()
    assert trainer.current_epoch == 2
    assert not list(Path(trainer.output_folder).glob("*.pth*"))
    if trainer_class is TopoMAEPretrainer:  # the other's validation is nnU-Net's, which reads no checkpoint
        trainer.perform_actual_validation()
        assert Path(trainer.output_folder, "validation", "summary.json").is_file()


# ------------------------------------------------------------------------------------------------ -pretrained_weights


@BOTH
def test_pretrained_weights_of_the_same_network_are_trained_on(workshop, tmp_path, trainer_class):
    earlier = workshop.build(trainer_class, seed=1)
    earlier.initialize()
    earlier.save_checkpoint(str(tmp_path / "earlier.pth"))
    trainer = workshop.build(trainer_class, seed=2)
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "earlier.pth"))
    trainer.on_train_start()
    ours, theirs = trainer.network.state_dict(), earlier.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if ".seg_layers." not in name)


def test_pretrained_weights_take_the_place_of_pretraining(workshop, tmp_path):
    earlier = workshop.build(TopoMAEFinetunerFromScratch)
    earlier.initialize()
    earlier.save_checkpoint(str(tmp_path / "earlier.pth"))
    trainer = workshop.build(TopoMAEFinetuner, seed=5)  # there is no checkpoint of TopoMAEPretrainer
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "earlier.pth"))
    trainer.on_train_start()
    name = "vit.token_embedding.weight"
    assert torch.equal(trainer.network.state_dict()[name], earlier.network.state_dict()[name])


def test_pretrained_weights_may_be_a_pretraining(workshop, tmp_path, monkeypatch):
    pretrained = workshop.build(TopoMAEPretrainer)
    pretrained.initialize()
    file = tmp_path / "pretrained.pth"
    pretrained.save_checkpoint(str(file))
    command = f"nnUNetv2_train 100 3d_fullres 0 -tr TopoMAEFinetuner -p nnUNetPlans -pretrained_weights {file}"
    monkeypatch.setattr(sys, "argv", command.split())
    trainer = workshop.build(TopoMAEFinetuner)
    maybe_load_checkpoint(trainer, False, False, str(file))
    name = "blocks.0.attn.qkv.weight"
    theirs = pretrained.network.state_dict()[f"vit.encoder.{name}"]
    assert torch.equal(trainer.network.state_dict()[f"vit.{name}"], theirs)

"""Environment > what the class set > checkpoint."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from torch import nn

from nnunet_topomae.config import ConfigError
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.precedence import settings_kept
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer
from nnunet_topomae.training.schedule import ParameterGroup, adamw

PHASES = {TopoMAEPretrainer: "pretrain", TopoMAEFinetunerFromScratch: "finetune"}
BOTH = pytest.mark.parametrize("base", PHASES)

SET_BY_CLASS = {
    "num_epochs": 3,
    "initial_lr": 1e-3,
    "weight_decay": 0.25,
    "num_iterations_per_epoch": 4,
    "num_val_iterations_per_epoch": 5,
    "save_every": 1,
    "oversample_foreground_percent": 0.75,
    "probabilistic_oversampling": True,
}


def subclass(base: type, **attributes) -> type:
    """As nnU-Net documents it: attributes are set after `super().__init__()`. The name is the base's."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):  # noqa: B008, N807
        super(changed, self).__init__(plans, configuration, fold, dataset_json, device)
        for name, value in attributes.items():
            setattr(self, name, value)

    changed = type(base.__name__, (base,), {"__init__": __init__})
    return changed


def saved(workshop, trainer_class: type, **knobs):
    """A trainer that has written checkpoint_latest before its second epoch."""
    trainer = workshop.build(trainer_class, **knobs)
    trainer.initialize()
    trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_latest.pth")))
    return trainer


def resumed(workshop, trainer_class: type, **knobs):
    trainer = workshop.build(trainer_class, **knobs)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    return trainer


def settings(trainer) -> set[tuple[float, float]]:
    """(peak learning rate, weight decay) of the parameter groups, but for the ViT's, which follow by a factor."""
    groups = {name: set() for name in ("vit", "others")}
    for group in trainer.optimizer.param_groups:
        groups["vit" if group["name"] == "vit" else "others"].add((group["peak_lr"], group["weight_decay"]))
    (factor,) = {round(rate / next(iter(groups["others"]))[0], 6) for rate, _ in groups["vit"]}
    assert factor in (1.5, 0.05)  # of the preset `tiny`, in pre-training and in fine-tuning
    return groups["others"]


@BOTH
def test_a_class_is_obeyed_at_the_start_and_after_an_interruption(workshop, base):
    changed = subclass(base, **SET_BY_CLASS)
    first = saved(workshop, changed)
    again = resumed(workshop, changed)
    for trainer in (first, again):
        assert {name: getattr(trainer, name) for name in SET_BY_CLASS} == SET_BY_CLASS
        assert settings(trainer) == {(1e-3, 0.25), (1e-3, 0)}
        assert trainer.lr_scheduler.num_steps == 3 * 4
        knobs = trainer.plans_manager.plans["topomae"]
        assert knobs[f"{PHASES[base]}_epochs"] == 3 and knobs["weight_decay"] == 0.25
    assert again.current_epoch == 1


def test_a_class_without_deep_supervision_trains(workshop):
    changed = subclass(TopoMAEFinetunerFromScratch, enable_deep_supervision=False)
    saved(workshop, changed, finetune_epochs=2, iterations_per_epoch=1)
    again = resumed(workshop, changed)
    again.run_training()
    assert again.current_epoch == 2 and not again.enable_deep_supervision


@BOTH
def test_a_class_that_has_been_changed_wins_over_the_checkpoint(workshop, base):
    saved(workshop, base, weight_decay=0.01, **{f"{PHASES[base]}_epochs": 9, f"{PHASES[base]}_lr": 5e-5})
    again = resumed(workshop, base)
    assert again.num_epochs == 9 and settings(again) == {(5e-5, 0.01), (5e-5, 0)}
    again = resumed(workshop, subclass(base, num_epochs=1000, initial_lr=2e-4))  # 1000 is the knob's default
    assert again.num_epochs == 1000 and settings(again) == {(2e-4, 0.01), (2e-4, 0)}


@BOTH
def test_the_environment_wins_over_the_class_and_the_checkpoint(workshop, base, monkeypatch):
    changed = subclass(base, **SET_BY_CLASS)
    saved(workshop, changed)
    monkeypatch.setenv(f"NNUNET_TOPOMAE_{PHASES[base].upper()}_LR", "7e-4")
    monkeypatch.setenv(f"NNUNET_TOPOMAE_{PHASES[base].upper()}_EPOCHS", "11")
    monkeypatch.setenv("NNUNET_TOPOMAE_WEIGHT_DECAY", "0.5")
    for trainer in (resumed(workshop, changed), saved(workshop, changed)):
        assert trainer.num_epochs == 11 and trainer.lr_scheduler.num_steps == 11 * 4
        assert settings(trainer) == {(7e-4, 0.5), (7e-4, 0)}
        assert trainer.num_iterations_per_epoch == 4  # not in the environment
        assert "NNUNET_TOPOMAE_WEIGHT_DECAY overrides weight_decay = 0.25" in Path(trainer.log_file).read_text()


def test_a_knob_that_a_class_sets_in_its_config_outlives_an_interruption(workshop, monkeypatch):
    class OtherMasks(TopoMAEPretrainer):
        def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):  # noqa: B008, N807
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.config = replace(self.config, mask_ratio=0.25)

    saved(workshop, OtherMasks)
    again = resumed(workshop, OtherMasks, mask_ratio=0.5)
    assert again.config.mask_ratio == again.plans_manager.plans["topomae"]["mask_ratio"] == 0.25
    monkeypatch.setenv("NNUNET_TOPOMAE_MASK_RATIO", "0.6")
    assert resumed(workshop, OtherMasks).config.mask_ratio == 0.6


@BOTH
def test_a_value_that_no_knob_takes_is_refused_whoever_sets_it(workshop, base):
    with pytest.raises(ConfigError, match="_epochs = 0 is not valid: it takes int, at least 1"):
        workshop.build(subclass(base, num_epochs=0)).run_training()


def test_an_optimiser_takes_its_moments_from_the_checkpoint_and_its_settings_from_today():
    layer, input_ = nn.Linear(3, 2), torch.ones(1, 3)
    old = adamw([ParameterGroup("all", layer.parameters(), 0.25)], 0.0)
    layer(input_).sum().backward()
    old.step()
    old.param_groups[0]["learnt"] = 7
    new = adamw([ParameterGroup("all", layer.parameters(), 0.5)], 0.1)
    with settings_kept(new):
        new.load_state_dict(old.state_dict())
        assert new.param_groups[0]["peak_lr"] == 0.25
    assert [(group["peak_lr"], group["weight_decay"]) for group in new.param_groups] == [(0.5, 0.1), (0.5, 0)]
    assert new.param_groups[0]["learnt"] == 7
    assert all(torch.equal(new.state[p]["exp_avg"], old.state[p]["exp_avg"]) for p in layer.parameters())


SHORT = """
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch


class Short(TopoMAEFinetunerFromScratch):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 3
        self.initial_lr = 1e-3
"""


def test_a_subclass_that_is_killed_goes_on_as_it_began(phantom, workshop, tmp_path, monkeypatch):
    """nnUNetv2_train, SIGKILL, nnUNetv2_train --c; the class lies in a folder of the user's own."""
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "Short.py").write_text(SHORT)
    monkeypatch.setenv("nnUNet_extTrainer", f"{os.environ['nnUNet_extTrainer']}{os.pathsep}{tmp_path / 'trainers'}")
    knobs = {"preset": "tiny", "partner": "unetrpp", "weight_topology": 0}
    knobs |= {"iterations_per_epoch": 1, "val_iterations_per_epoch": 1}
    for name, value in knobs.items():
        monkeypatch.setenv(f"NNUNET_TOPOMAE_{name.upper()}", str(value))
    fold = workshop.results / "Short__nnUNetPlans__3d_fullres" / "fold_0"
    command = ["nnUNetv2_train", phantom.dataset_id, "3d_fullres", 0, "-tr", "Short", "-device", "cpu"]
    program = Path(sys.executable).parent / command[0]
    killed = subprocess.Popen([program, *map(str, command[1:])], stdout=subprocess.DEVNULL)
    while not (fold / "checkpoint_latest.pth").is_file() and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL

    phantom.run(*command, "--c")
    final = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert final["current_epoch"] == 3
    assert final["logging"]["lrs"] == pytest.approx([1e-3, 0.75e-3, 0.25e-3])  # a cosine over three epochs

"""Both trainers begin with weights of other programs, or of ours in other forms."""

import json
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_topomae.export import export_encoders
from nnunet_topomae.training.finetuner import TopoMAEFinetuner
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

STEM = "encoder.stages.0.0.convs.0.conv.weight"
OURS = {"partner": "plan", "weight_topology": 0}


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


@pytest.fixture
def supervised(workshop) -> nnUNetTrainer:
    """nnU-Net's own trainer with other labels, before its first step."""
    dataset_json = json.loads((workshop.dataset / "dataset.json").read_text())
    dataset_json["labels"] = {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}
    plans = workshop.plans | {"continue_training": False}
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    return trainer


@pytest.fixture
def foreign(supervised, tmp_path) -> Path:
    """That network as nnssl would have pre-trained it on other images."""
    configuration = {"spacing": [1, 1, 1], "patch_size": [160] * 3, "normalization_schemes": ["CTNormalization"]}
    plan = {
        "architecture_plans": {"arch_class_name": "PlainConvUNet"},
        "pretrain_plan": {"dataset_name": "Dataset745_OpenMind", "configurations": {"onemmiso": configuration}},
    }
    file = tmp_path / "foreign.pth"
    torch.save({"network_weights": supervised.network.state_dict(), "nnssl_adaptation_plan": plan}, file)
    return file


def test_pretraining_goes_on_from_it_with_a_new_vit_and_a_warm_up_of_all(workshop, foreign, supervised):
    trainer = workshop.build(TopoMAEPretrainer, pretrained=str(foreign), pretrain_epochs=40, **OURS)
    trainer.on_train_start()
    assert torch.equal(trainer.network.state_dict()[f"partner.{STEM}"], supervised.network.state_dict()[STEM])
    log = log_of(trainer)
    assert f"Pre-trained weights: {foreign}" in log and "in the layout of nnssl" in log
    assert "100% of this network's encoder are filled, with 100% of the checkpoint's encoder" in log
    assert "left new, not in the checkpoint: decoder.seg_layers, position_head, vit" in log
    for difference in ("dataset: Dataset745_OpenMind", "spacing in mm: [1.0, 1.0, 1.0]", "patch: [160, 160, 160]"):
        assert f"other {difference} in pre-training" in log
    assert "other normalisation: CTNormalization in pre-training, ZScoreNormalization here" in log
    assert "does not record the cases that it was trained on" in log
    trainer.lr_scheduler.step(0)
    assert all(group["lr"] < group["peak_lr"] / 2 for group in trainer.optimizer.param_groups)


def test_without_a_pretrained_vit_the_partner_segments_alone_and_goes_on_so(workshop, foreign, supervised):
    trainer = workshop.build(TopoMAEFinetuner, pretrained=str(foreign), **OURS)
    trainer.on_train_start()
    assert trainer.plain_network.vit is None
    assert "has no pre-trained ViT: the partner segments alone. NNUNET_TOPOMAE_FUSION=stages adds one" in log_of(
        trainer
    )
    ours, theirs = trainer.network.state_dict(), supervised.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if ".seg_layers." not in name)
    plans = json.loads(Path(trainer.output_folder_base, "plans.json").read_text())  # which prediction reads
    assert plans["topomae"]["fusion"] == "partner_only"

    trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_latest.pth")))
    resumed = workshop.build(TopoMAEFinetuner)
    maybe_load_checkpoint(resumed, continue_training=True, validation_only=False)
    assert resumed.plain_network.vit is None


def test_who_asks_for_the_fusion_gets_a_new_vit(workshop, foreign):
    trainer = workshop.build(TopoMAEFinetuner, pretrained=str(foreign), fusion="stages", **OURS)
    trainer.on_train_start()
    assert trainer.plain_network.vit is not None
    assert "has no pre-trained ViT: it begins anew, since fusion = stages is asked for" in log_of(trainer)


@pytest.mark.parametrize("trainer_class", [TopoMAEPretrainer, TopoMAEFinetuner])
def test_nnunets_option_takes_a_model_of_nnunets_trainers(workshop, supervised, tmp_path, monkeypatch, trainer_class):
    file = tmp_path / "supervised.pth"
    supervised.save_checkpoint(str(file))
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_train", "100", "-p", "nnUNetPlans", "-pretrained_weights", str(file)])
    trainer = workshop.build(trainer_class, **OURS)
    maybe_load_checkpoint(trainer, False, False, str(file))
    trainer.on_train_start()
    weights = trainer.network.state_dict()
    name = STEM if trainer_class is TopoMAEFinetuner else f"partner.{STEM}"
    assert torch.equal(weights[name], supervised.network.state_dict()[STEM])
    assert "a checkpoint of nnUNetTrainer" in log_of(trainer)


def test_what_was_exported_is_read_with_the_description_beside_it(workshop, tmp_path):
    pretrainer = workshop.build(TopoMAEPretrainer, **OURS)
    pretrainer.on_train_start()
    pretrainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    export_encoders(tmp_path / "checkpoint.pth", tmp_path / "encoders")
    file = tmp_path / "encoders" / "plan_network.safetensors"
    trainer = workshop.build(TopoMAEFinetuner, pretrained=str(file), **OURS)
    trainer.on_train_start()
    assert torch.equal(trainer.network.state_dict()[STEM], pretrainer.network.state_dict()[f"partner.{STEM}"])
    assert trainer.cases_seen["Dataset100_Phantom"].keys() == pretrainer.cases_seen["Dataset100_Phantom"].keys()
    name = "blocks.0.attn.qkv.weight"  # of the ViT in the file beside it
    assert torch.equal(
        trainer.network.state_dict()[f"vit.{name}"], pretrainer.network.state_dict()[f"vit.encoder.{name}"]
    )
    assert "  other " not in log_of(trainer)  # the same images

    vit = workshop.build(TopoMAEFinetuner, pretrained=str(file.with_name("vit_encoder.safetensors")), **OURS)
    with pytest.raises(ValueError, match="a ViT alone. Name the partner's safetensors"):
        vit.on_train_start()


def test_a_pretraining_of_ones_own_that_is_passed_over_is_named(workshop, foreign):
    own = workshop.build(TopoMAEPretrainer, **OURS)
    own.initialize()
    file = Path(own.output_folder, "checkpoint_final.pth")
    own.save_checkpoint(str(file))
    trainer = workshop.build(TopoMAEFinetuner, pretrained=str(foreign), **OURS)
    assert trainer.starting_weights() == str(foreign)
    assert f"{file} is not used, since NNUNET_TOPOMAE_PRETRAINED names {foreign}" in log_of(trainer)


def test_a_model_with_another_network_is_an_error_with_the_command_for_its_plans(workshop, supervised, tmp_path):
    narrower = workshop.plans
    arguments = narrower["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [width // 2 for width in arguments["features_per_stage"]]
    supervised.save_checkpoint(str(tmp_path / "supervised.pth"))
    trainer = workshop.build(TopoMAEFinetuner, plans=narrower, pretrained=str(tmp_path / "supervised.pth"), **OURS)
    command = "nnUNetv2_move_plans_between_datasets -s Dataset100_Phantom -t Dataset100_Phantom -sp nnUNetPlans -tp"
    with pytest.raises(ValueError, match=f"would be filled(.|\\n)*{command}"):
        trainer.on_train_start()

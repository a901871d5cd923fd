import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnunet_topomae.monitoring.instruments import FINETUNING_INSTRUMENTS
from nnunet_topomae.training.finetuner import TopoMAEFinetuner, TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


@pytest.fixture
def pretrained(workshop) -> TopoMAEPretrainer:
    """A pre-trainer that has saved its final checkpoint (of random weights) where a finetuner looks for it."""
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    return trainer


def test_it_starts_from_the_pretrained_weights_of_its_fold(workshop, pretrained, monkeypatch):
    trainer = workshop.build(TopoMAEFinetuner, seed=5)
    trainer.on_train_start()
    ours, theirs = trainer.network.state_dict(), pretrained.network.state_dict()
    assert torch.equal(ours["vit.token_embedding.weight"], theirs["vit.encoder.token_embedding.weight"])
    assert torch.equal(ours["encoder.stem.0.weight"], theirs["partner.encoder.stem.0.weight"])


def test_its_folder_holds_no_pretraining(trained):
    file = Path(trained.finetuner.output_folder, "checkpoint_final.pth")
    weights = torch.load(file, weights_only=False)["network_weights"]
    assert not [name for name in weights if "position_head" in name or "mask_token" in name]
    assert json.loads((file.parents[1] / "plans.json").read_text())["topomae"]["preset"] == "tiny"


def test_the_distance_to_the_pretrained_weights_is_logged_also_after_an_interruption(trained, workshop):
    trainer = trained.finetuner
    logging = trainer.logger.local_logger.my_fantastic_logging
    for name in FINETUNING_INSTRUMENTS:
        assert len(logging[name]) == 2 and 0 <= logging[name][1] <= 1
    assert 1 > logging["cosine_partner"][0] > logging["cosine_partner"][1]

    resumed = workshop.build(TopoMAEFinetuner, pretrained=str(trained.pretrained))
    resumed.load_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    assert resumed.plans_manager.plans["topomae"]["pretrained"] == ""  # as the checkpoint says
    resumed.config = replace(resumed.config, pretrained=str(trained.pretrained))
    resumed.num_epochs = 3
    resumed.run_training()
    cosines = resumed.logger.local_logger.my_fantastic_logging["cosine_partner"]
    assert len(cosines) == 3 and cosines[1] >= cosines[2] > 0


def test_what_a_training_began_with_is_recalled_though_nobody_names_it_again(trained, workshop, monkeypatch):
    """As after -pretrained_weights, which is not given with --c."""
    resumed = workshop.build(TopoMAEFinetuner)
    resumed.load_checkpoint(str(Path(trained.finetuner.output_folder, "checkpoint_final.pth")))
    monkeypatch.setattr(resumed, "starting_weights", lambda: pytest.fail("no other weights are asked for"))
    resumed._recall_pretrained_weights()
    assert resumed.pretrained_weights["partner"] and resumed.pretrained_weights["vit"]


def test_shape_counts_after_a_third_of_the_training(trained):
    """From step 1.2 of four, so in the second epoch; validation's loss is nnU-Net's."""
    trainer = trained.finetuner
    before, after = trainer.logger.local_logger.my_fantastic_logging["train_topology"]
    assert math.isnan(before) and after > 0
    assert trainer.loss.topology_weight == 0
    assert f"topological loss {after:.3g}" in Path(trainer.log_file).read_text()


def test_shape_in_one_of_several_steps_counts_as_many_times(workshop):
    trainer = workshop.build(
        TopoMAEFinetunerFromScratch,
        finetune_epochs=5,
        finetune_weight_topology=0.1,
        topology_every=3,
        topology_place=0.2,
    )
    trainer.initialize()
    assert trainer.loss.topology.place == 0.2
    weights = []
    for _ in range(10):
        weights.append(trainer._topology_weight())
        trainer.lr_scheduler.advance()
    assert weights == pytest.approx([0, 0, 0, 0.3, 0, 0, 0.3, 0, 0, 0.3])


def test_a_missing_checkpoint_is_an_error_with_the_command_to_run(workshop):
    with pytest.raises(FileNotFoundError) as error:
        workshop.build(TopoMAEFinetuner).run_training()
    assert "nnUNetv2_train Dataset100_Phantom 3d_fullres 0 -tr TopoMAEPretrainer -p nnUNetPlans" in str(error.value)
    assert "'none' to train from scratch" in str(error.value)


def test_an_unfinished_pretraining_is_an_error_that_says_so(workshop, pretrained):
    final = Path(pretrained.output_folder, "checkpoint_final.pth")
    final.rename(final.with_name("checkpoint_latest.pth"))
    with pytest.raises(FileNotFoundError, match="has not ended(.|\n)*-p nnUNetPlans --c"):
        workshop.build(TopoMAEFinetuner).run_training()


def test_another_checkpoint_can_be_named(workshop, pretrained, tmp_path):
    elsewhere = tmp_path / "elsewhere.pth"
    Path(pretrained.output_folder, "checkpoint_final.pth").rename(elsewhere)
    assert workshop.build(TopoMAEFinetuner, pretrained=str(elsewhere)).starting_weights() == str(elsewhere)
    with pytest.raises(FileNotFoundError, match="names nowhere.pth, and there is no such file"):
        workshop.build(TopoMAEFinetuner, pretrained="nowhere.pth").run_training()
    with pytest.raises(FileNotFoundError, match="which is a folder: name a file in it"):
        workshop.build(TopoMAEFinetuner, pretrained=str(tmp_path)).run_training()


def test_a_subclass_from_scratch_is_told_what_to_inherit_from(workshop):
    class Mine(TopoMAEFinetuner):
        pass

    with pytest.raises(ValueError, match="none is not for Mine.*inherit from TopoMAEFinetunerFromScratch"):
        workshop.build(Mine, pretrained="none").run_training()


def test_another_preset_is_an_error_that_names_it_and_lists_the_layers(workshop, pretrained):
    says = "does not fit this network: it was pre-trained with preset = 'tiny', this run has 'small': set "
    with pytest.raises(ValueError, match=f"{says}NNUNET_TOPOMAE_PRESET=tiny(.|\n)*vit.token_embedding.weight: "):
        workshop.build(TopoMAEFinetuner, preset="small").run_training()


def test_weights_follow_the_order_of_axes(workshop, pretrained, tmp_path):
    content = torch.load(pretrained.output_folder + "/checkpoint_final.pth", weights_only=True)
    content["init_args"]["plans"]["transpose_forward"] = [2, 0, 1]
    torch.save(content, tmp_path / "transposed.pth")
    trainer = workshop.build(TopoMAEFinetuner, pretrained=str(tmp_path / "transposed.pth"))
    trainer.on_train_start()
    log = Path(trainer.log_file).read_text()
    assert "other order of axes (weights follow it): [2, 0, 1] in pre-training, [0, 1, 2] here" in log
    name = "encoder.image_block.conv1.weight"  # axis 0 of an image was the network's second one
    theirs = pretrained.network.state_dict()[f"partner.{name}"].permute(0, 1, 3, 4, 2)
    assert torch.equal(trainer.network.state_dict()[name], theirs)


def test_weights_without_their_plans_are_taken_and_the_log_says_so(workshop, pretrained, tmp_path):
    torch.save({"network_weights": pretrained.network.state_dict()}, tmp_path / "weights.pth")
    trainer = workshop.build(TopoMAEFinetuner, pretrained=str(tmp_path / "weights.pth"))
    trainer.on_train_start()
    assert "does not say what it was pre-trained on" in Path(trainer.log_file).read_text()


def test_none_trains_from_scratch_in_a_folder_of_its_own(workshop):
    trainer = workshop.build(TopoMAEFinetuner, pretrained="none")
    assert type(trainer) is TopoMAEFinetunerFromScratch
    assert "TopoMAEFinetunerFromScratch__nnUNetPlans__3d_fullres" in trainer.output_folder


def test_each_part_learns_at_its_own_rate(workshop):
    def peaks(**knobs) -> dict[str, float]:
        rates = {"finetune_lr": 1e-3, "vit_finetune_lr_factor": 0.1}
        trainer = workshop.build(TopoMAEFinetuner, **rates, **knobs)
        trainer.initialize()
        name_of = {parameter: name for name, parameter in trainer.network.named_parameters()}
        return {name_of[p]: group["peak_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}

    peak = peaks()
    assert peak["decoder.seg_layers.0.weight"] == peak["encoder.stem.0.weight"] == 1e-3
    assert peak["vit.norm.weight"] == pytest.approx(1e-4)
    from_scratch = peaks(pretrained="none")
    assert len(peak) == len(from_scratch) and sorted(set(from_scratch.values())) == pytest.approx([1e-4, 1e-3])


def test_deep_supervision_matches_the_targets(workshop):
    trainer = workshop.build(TopoMAEFinetuner, pretrained="none")
    trainer.initialize()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    outputs = trainer.network(batch["data"])
    assert [o.shape[2:] for o in outputs] == [t.shape[2:] for t in batch["target"]]
    assert trainer.loss.weight_factors == (4 / 7, 2 / 7, 1 / 7)


@pytest.mark.parametrize(("knob", "there", "here"), [("preset", "base", "tiny"), ("recipe", "paper", "ours")])
def test_folds_of_one_folder_must_share_an_architecture(workshop, knob, there, here):
    trainer = workshop.build(TopoMAEFinetuner, pretrained="none")
    trainer.initialize()
    other_fold = Path(trainer.output_folder_base, "fold_1")
    other_fold.mkdir(parents=True)
    (other_fold / "checkpoint_final.pth").touch()
    Path(trainer.output_folder_base, "plans.json").write_text(json.dumps({"topomae": {knob: there}}))
    with pytest.raises(ValueError, match=f"{knob} = '{there}', this run has '{here}'.*_{knob.upper()}={there}"):
        trainer.run_training()


@pytest.mark.parametrize("fusion", ["stages", "partner_only"])
def test_the_plans_own_network_is_pretrained_and_fine_tuned_and_goes_on(workshop, fusion):
    knobs = {"partner": "plan", "fusion": fusion, "iterations_per_epoch": 1}
    pretrainer = workshop.build(TopoMAEPretrainer, **knobs)
    pretrainer.initialize()
    pretrainer.save_checkpoint(str(Path(pretrainer.output_folder, "checkpoint_final.pth")))
    trainer = workshop.build(TopoMAEFinetuner, **knobs)
    trainer.run_training()
    assert set(trainer.plain_network.encoder.state_dict()) == set(pretrainer.plain_network.partner.encoder.state_dict())
    assert len(trainer.loss.weight_factors) == len(trainer.configuration_manager.pool_op_kernel_sizes) - 1

    resumed = workshop.build(TopoMAEFinetuner)  # the knobs are those of the checkpoint
    resumed.load_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    assert resumed.config.partner == "plan" and resumed.initial_lr == trainer.initial_lr
    for name, weight in trainer.plain_network.state_dict().items():
        assert torch.equal(weight, resumed.plain_network.state_dict()[name])


def test_a_pretraining_with_another_partner_is_an_error_with_the_knob_to_set(workshop, pretrained):
    with pytest.raises(ValueError, match="partner = 'unetrpp'.*'plan'.*NNUNET_TOPOMAE_PARTNER=unetrpp"):
        workshop.build(TopoMAEFinetuner, partner="plan").run_training()


def test_a_picture_of_nnunets_that_cannot_be_written_is_a_line_in_the_log(workshop, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    trainer = workshop.build(TopoMAEFinetunerFromScratch, iterations_per_epoch=1)
    trainer.run_training()
    assert trainer.current_epoch == 1
    assert "progress.png could not be drawn, the training goes on: OSError" in Path(trainer.log_file).read_text()

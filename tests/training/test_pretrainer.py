import json
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch

from nnunet_topomae.config import ConfigError
from nnunet_topomae.evaluation.instruments import PRETRAINING_INSTRUMENTS
from nnunet_topomae.losses.pretraining import BRANCHES, TERMS
from nnunet_topomae.networks.presets import PRESETS
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


def scramble_labels(images: Path) -> None:
    for file in images.glob("*_seg.b2nd"):
        labels = blosc2.open(str(file))[:]
        file.unlink()
        blosc2.asarray(np.random.default_rng(1).permutation(labels.ravel()).reshape(labels.shape), urlpath=str(file))


def test_it_pretrains_and_reports(workshop):
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.run_training()
    trainer.perform_actual_validation()

    fold = workshop.results / "TopoMAEPretrainer__nnUNetPlans__3d_fullres" / "fold_0"
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["current_epoch"] == 1 and checkpoint["trainer_name"] == "TopoMAEPretrainer"
    assert checkpoint["init_args"]["plans"]["topomae"] == trainer.config.to_section()
    for term in TERMS:
        assert np.isfinite(checkpoint["logging"][f"train_{term}"]).all()
        assert len(checkpoint["logging"][f"val_{term}"]) == 1
    assert (fold / "progress.png").stat().st_size > 0
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    val_cases = [case["case"] for case in summary["metric_per_case"]]
    assert val_cases == sorted(json.loads((workshop.dataset / "splits_final.json").read_text())[0]["val"])
    for network in ("vit", "partner"):
        metrics = summary["mean"][network]
        assert set(metrics) == {"masked_mse", "psnr", "topological_distance", "point_error_voxels", "point_error_mm"}
        assert all(np.isfinite(list(metrics.values())))
        # The first axis of the phantom is coarser than 1 mm, the others are 1 mm.
        assert metrics["point_error_voxels"] < metrics["point_error_mm"] < 2 * metrics["point_error_voxels"]
    assert all((fold / "validation" / f"{case}.png").is_file() for case in val_cases)


def test_instruments_are_read_each_epoch_and_a_dead_vit_is_reported(workshop):
    trainer = workshop.build(TopoMAEPretrainer, vit_pretrain_lr_factor=0, pretrain_epochs=2)
    trainer.initialize()
    with torch.no_grad():
        trainer.plain_network.vit.encoder.norm.weight.zero_()
    trainer.run_training()
    logging = trainer.logger.local_logger.my_fantastic_logging
    for name in (*PRETRAINING_INSTRUMENTS, "train_gradient_norm_vit", "train_clipped_partner"):
        assert len(logging[name]) == 2 and np.isfinite(logging[name]).all()
    assert logging["error_over_harmonic_zero"][0] == logging["error_over_harmonic_zero"][1]  # the same crops
    assert logging["vit_token_std"] == [0, 0]
    log = Path(trainer.log_file).read_text()
    assert log.count("WARNING: the ViT gives nearly the same features") == 2
    assert "Lower NNUNET_TOPOMAE_VIT_PRETRAIN_LR_FACTOR" in log


def test_each_network_is_clipped_by_its_own_norm(workshop):
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    for parameter in trainer.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    readings = trainer._clip_gradients(BRANCHES)
    for name in ("vit", "partner"):
        parameters = list(getattr(trainer.network, name).parameters())
        assert readings[f"gradient_norm_{name}"].item() == pytest.approx(sum(p.numel() for p in parameters) ** 0.5)
        assert readings[f"clipped_{name}"]
        assert torch.cat([p.grad.flatten() for p in parameters]).norm().item() == pytest.approx(1, rel=1e-3)


def test_no_label_is_read(workshop):
    def trained_weights() -> dict[str, torch.Tensor]:
        trainer = workshop.build(TopoMAEPretrainer)
        trainer.run_training()
        return trainer.network.state_dict()

    weights = trained_weights()
    scramble_labels(workshop.images)
    with_other_labels = trained_weights()

    assert all(torch.equal(weights[name], with_other_labels[name]) for name in weights)


def test_the_seed_decides_the_weights(workshop):
    first, second = (workshop.build(TopoMAEPretrainer, seed=seed) for seed in (0, 1))
    first.initialize()
    second.initialize()
    name = "vit.decoder.mask_token"
    assert not torch.equal(first.network.state_dict()[name], second.network.state_dict()[name])


@pytest.mark.parametrize(("knobs", "views"), [({}, PRESETS["tiny"].views), ({"vit_views": 3}, 3)])
def test_the_vit_gets_as_many_masks_as_the_knob_says_or_else_the_preset(workshop, knobs, views):
    trainer = workshop.build(TopoMAEPretrainer, **knobs)
    trainer._seed_masks(0)
    assert trainer._draw_masks(2).shape == (2, views, trainer.geometry.num_tokens)


@pytest.mark.parametrize(("knobs", "steps"), [({"vit_steps": -1}, PRESETS["tiny"].steps), ({"vit_steps": 3}, 3)])
def test_the_vit_takes_as_many_steps_as_the_knob_says_or_else_the_preset(workshop, knobs, steps):
    trainer = workshop.build(TopoMAEPretrainer, iterations_per_epoch=2, **knobs)
    trainer.initialize()
    masks, draw = [], trainer._draw_masks
    trainer._draw_masks = lambda batch_size: masks.append(draw(batch_size)) or masks[-1]
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    trainer.train_step(next(trainer.dataloader_train))

    taken = {name: trainer.optimizer.state[parameter]["step"] for name, parameter in trainer.network.named_parameters()}
    assert {int(count) for name, count in taken.items() if name.startswith("vit.")} == {steps}
    assert {int(count) for name, count in taken.items() if name.startswith("partner.")} == {1}
    assert trainer.lr_scheduler.current_step == trainer.current_step == 1
    assert len(masks) == steps and not torch.equal(masks[0], masks[1])


def test_without_a_seed_each_training_draws_its_own_masks(workshop):
    def drawn(seed: int) -> tuple[torch.Tensor, ...]:
        trainer = workshop.build(TopoMAEPretrainer, seed=seed)
        masks = []
        for epoch in (0, 1, -1, -1):  # -1: of validation
            trainer._seed_masks(epoch)
            masks.append(trainer._draw_masks(64))
        return tuple(masks)

    unseeded, other, seeded, again = (drawn(seed) for seed in (-1, -1, 0, 0))
    assert not torch.equal(unseeded[0], other[0]) and not torch.equal(unseeded[0], unseeded[1])
    assert torch.equal(unseeded[2], unseeded[3]) and torch.equal(unseeded[2], other[2])  # also after `--c`
    assert all(torch.equal(one, two) for one, two in zip(seeded, again, strict=True))
    assert not torch.equal(seeded[0], seeded[1])


def test_training_cases_are_those_of_the_split_and_unlabelled_ones(workshop):
    cases = sorted({file.name.removesuffix("_seg.b2nd") for file in workshop.images.glob("*_seg.b2nd")})
    splits = [{"train": cases[:1], "val": cases[1:3], "unlabelled": cases[3:]}]
    (workshop.dataset / "splits_final.json").write_text(json.dumps(splits))
    trainer = workshop.build(TopoMAEPretrainer)
    assert trainer.do_split() == (sorted(cases[:1] + cases[3:]), cases[1:3])

    splits[0]["unlabelled"].append(cases[1])
    (workshop.dataset / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(ValueError, match=f"validation cases of fold 0 are among the unlabelled.*: {cases[1]}"):
        workshop.build(TopoMAEPretrainer).do_split()


def test_a_2d_configuration_is_refused(workshop):
    with pytest.raises(ValueError, match="use the configuration 3d_fullres"):
        workshop.build(TopoMAEPretrainer, configuration="2d")
    assert not workshop.results.exists()


def test_a_patch_too_small_is_refused(workshop):
    plans = workshop.plans
    plans["configurations"]["3d_fullres"]["patch_size"] = [2, 40, 40]
    with pytest.raises(ValueError, match="too small: its first axis has 2 voxels"):
        workshop.build(TopoMAEPretrainer, plans=plans)


def test_a_wrong_knob_is_refused(workshop, monkeypatch):
    monkeypatch.setenv("NNUNET_TOPOMAE_MASK_RATIO", "1.5")
    with pytest.raises(ConfigError, match="mask_ratio = '1.5' is not valid"):
        workshop.build(TopoMAEPretrainer)


def test_a_bad_image_is_refused_before_training(workshop):
    file = sorted(workshop.images.glob("*_seg.b2nd"))[0].name.replace("_seg", "")
    image = blosc2.open(str(workshop.images / file))[:]
    image[0, 3, 4, 5] = np.nan
    (workshop.images / file).unlink()
    blosc2.asarray(image, urlpath=str(workshop.images / file))
    with pytest.raises(ValueError, match=f"{file.removesuffix('.b2nd')}: 1 voxels are NaN or infinite"):
        workshop.build(TopoMAEPretrainer).run_training()


def test_a_checkpoint_is_written_whole_or_not_at_all(workshop, monkeypatch):
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    file = Path(trainer.output_folder, "checkpoint_latest.pth")
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()

    def killed_half_way(checkpoint, opened):
        opened.write(before[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed_half_way)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before


def test_ignoring_the_previous_stage_of_a_cascade(workshop):
    plans = workshop.plans
    plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"] | {"next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    trainer = workshop.build(TopoMAEPretrainer, configuration="3d_cascade_fullres", plans=plans)
    trainer.run_training()
    assert trainer.network.vit.encoder.token_embedding.weight.shape[1] == 1


def test_a_loss_that_is_not_finite_is_an_error_without_a_gradient_scaler(workshop, monkeypatch):
    trainer = workshop.build(TopoMAEPretrainer)
    trainer.initialize()
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(trainer, "_forward", lambda batch: (nan, {"reconstruction_vit": nan}))
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 0 .reconstruction_vit nan.*PRETRAIN_LR"):
        trainer.train_step({})

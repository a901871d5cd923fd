import errno
import json
import math
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch

from nnunet_topomae.losses.pretraining import CURVES
from nnunet_topomae.monitoring.instruments import PRETRAINING_INSTRUMENTS
from nnunet_topomae.networks.presets import PRESETS
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer, _means


def logged(trainer) -> dict[str, list[float]]:
    return trainer.logger.local_logger.my_fantastic_logging


def scramble_labels(images: Path) -> None:
    for file in images.glob("*_seg.b2nd"):
        labels = blosc2.open(str(file))[:]
        file.unlink()
        blosc2.asarray(np.random.default_rng(1).permutation(labels.ravel()).reshape(labels.shape), urlpath=str(file))


def test_its_checkpoint_holds_its_knobs_and_a_value_of_each_term_an_epoch(trained):
    checkpoint = torch.load(trained.pretrained, weights_only=True)
    assert checkpoint["current_epoch"] == 2 and checkpoint["trainer_name"] == "TopoMAEPretrainer"
    assert checkpoint["init_args"]["plans"]["topomae"] == trained.pretrainer.config.to_section()
    for phase in ("train", "val"):
        for curve in CURVES:
            values = checkpoint["logging"][f"{phase}_{curve}"]
            assert len(values) == 2 and np.isfinite(values).all()
    for name in (*PRETRAINING_INSTRUMENTS, "train_gradient_norm_vit", "train_clipped_partner"):
        assert len(checkpoint["logging"][name]) == 2 and np.isfinite(checkpoint["logging"][name]).all()
    same_crops = checkpoint["logging"]["error_over_harmonic_zero"]
    assert same_crops[0] == same_crops[1]


def test_its_validation_tells_how_well_cases_are_reconstructed_and_placed(trained):
    folder = Path(trained.pretrainer.output_folder, "validation")
    summary = json.loads((folder / "summary.json").read_text())
    val_cases = [case["case"] for case in summary["metric_per_case"]]
    splits = json.loads((trained.workshop.dataset / "splits_final.json").read_text())
    assert val_cases == sorted(splits[0]["val"])
    for network in ("vit", "partner"):
        metrics = summary["mean"][network]
        assert set(metrics) == {
            "masked_mse",
            "psnr",
            "topological_distance",
            "betti_error",
            "point_error_voxels",
            "point_error_mm",
        }
        assert all(np.isfinite(list(metrics.values())))
        # The first axis of the phantom is coarser than 1 mm, the others are 1 mm.
        assert metrics["point_error_voxels"] < metrics["point_error_mm"] < 2 * metrics["point_error_voxels"]
    assert all((folder / f"{case}.png").is_file() for case in val_cases)
    assert (folder.parent / "progress.png").stat().st_size > 0


def test_a_place_that_nobody_asked_for_is_not_judged(workshop):
    trainer = workshop.build(TopoMAEPretrainer, weight_position=0, weight_consistency_points=0)
    trainer.initialize()
    trainer.network.eval()
    key = trainer.do_split()[1][0]
    metrics = trainer._evaluation(trainer.dataset_of([key])).case(key)[0]["metrics"]
    assert not [name for of_network in metrics.values() for name in of_network if "point" in name]


def test_position_is_left_out_where_the_patch_holds_most_volumes(workshop):
    plans = workshop.plans
    configuration = plans["configurations"]["3d_fullres"]
    configuration["median_image_size_in_voxels"] = configuration["patch_size"]
    trainer = workshop.build(TopoMAEPretrainer, plans=plans, iterations_per_epoch=1)
    trainer.run_training()
    weights = trainer.loss.weights
    assert weights["position"] == weights["consistency_points"] == 0 < weights["reconstruction"]
    log = Path(trainer.log_file).read_text()
    assert "Position is left out" in log and "reconstruction_vit" in log and "point" not in log.split("Epoch 0")[1]


def test_a_dead_vit_is_reported(workshop):
    trainer = workshop.build(TopoMAEPretrainer, vit_pretrain_lr_factor=0, weight_topology=0, iterations_per_epoch=1)
    trainer.initialize()
    with torch.no_grad():
        trainer.plain_network.vit.encoder.norm.weight.zero_()
    trainer.run_training()
    assert logged(trainer)["vit_token_std"] == [0]
    log = Path(trainer.log_file).read_text()
    assert "WARNING: the ViT gives nearly the same features" in log
    assert "Lower NNUNET_TOPOMAE_VIT_PRETRAIN_LR_FACTOR" in log


def test_no_label_is_read(trained, workshop):
    scramble_labels(workshop.images)
    trainer = workshop.build(TopoMAEPretrainer, pretrain_epochs=2, panel_every=2)
    trainer.run_training()
    theirs = trained.pretrainer.network.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in trainer.network.state_dict().items())


@pytest.mark.parametrize(("knobs", "steps"), [({"vit_steps": -1}, PRESETS["tiny"].steps), ({"vit_steps": 3}, 3)])
def test_the_vit_takes_as_many_steps_as_the_knob_says_or_else_the_preset(workshop, knobs, steps):
    trainer = workshop.build(TopoMAEPretrainer, weight_topology=0, **knobs)
    trainer.initialize()
    masks, draw = [], trainer.step.draw_masks
    trainer.step.draw_masks = lambda batch_size: masks.append(draw(batch_size)) or masks[-1]
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    trainer.train_step(next(trainer.dataloader_train))

    taken = {name: trainer.optimizer.state[parameter]["step"] for name, parameter in trainer.network.named_parameters()}
    assert {int(count) for name, count in taken.items() if name.startswith("vit.")} == {steps}
    assert {int(count) for name, count in taken.items() if name.startswith("partner.")} == {1}
    assert trainer.lr_scheduler.current_step == 1
    assert len(masks) == steps and not torch.equal(masks[0], masks[1])


def test_topology_is_computed_in_one_of_so_many_steps_and_curves_are_means_over_those(workshop):
    trainer = workshop.build(
        TopoMAEPretrainer, iterations_per_epoch=3, topology_every=2, pretrain_epochs=2, vit_steps=1, panel_every=0
    )
    seen = []
    train_step = trainer.train_step
    trainer.train_step = lambda batch: seen.append(train_step(batch)) or seen[-1]
    trainer.run_training()
    assert all(isinstance(value, torch.Tensor) for step in seen for value in step.values())  # nothing was read
    assert ["topology_vit" in step for step in seen] == [True, False, True, False, True, False]
    expected = [(seen[0]["topology_vit"] + seen[2]["topology_vit"]).item() / 2, seen[4]["topology_vit"].item()]
    assert logged(trainer)["train_topology_vit"] == pytest.approx(expected)


def test_a_gradient_that_overflowed_counts_for_no_mean():
    steps = [{"loss": torch.tensor(x), "gradient_norm_vit": torch.tensor(y)} for x, y in ((1.0, 2.0), (3.0, math.inf))]
    assert _means(steps, ("loss", "gradient_norm_vit")) == {"loss": 2, "gradient_norm_vit": 2}


def test_validation_computes_topology_in_one_of_so_many_batches_too(workshop):
    trainer = workshop.build(TopoMAEPretrainer, topology_every=2, val_iterations_per_epoch=3)
    trainer.initialize()
    times = []
    trainer.step.validate = lambda batch, topology: times.append(topology)
    for _ in range(6):
        trainer.validation_step({})
    assert times == 2 * [1.5, 0, 1.5]  # whose mean is 1


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


def test_a_bad_image_is_refused_before_training(workshop):
    file = sorted(workshop.images.glob("*_seg.b2nd"))[0].name.replace("_seg", "")
    image = blosc2.open(str(workshop.images / file))[:]
    image[0, 3, 4, 5] = np.nan
    (workshop.images / file).unlink()
    blosc2.asarray(image, urlpath=str(workshop.images / file))
    with pytest.raises(ValueError, match=f"{file.removesuffix('.b2nd')}: 1 voxels are NaN or infinite"):
        workshop.build(TopoMAEPretrainer).run_training()


def test_ignoring_the_previous_stage_of_a_cascade(workshop):
    plans = workshop.plans
    plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"] | {"next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    trainer = workshop.build(TopoMAEPretrainer, configuration="3d_cascade_fullres", plans=plans, weight_topology=0)
    trainer.on_train_start()
    assert torch.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    assert trainer.network.vit.encoder.token_embedding.weight.shape[1] == 1


def case_with_a_formula(workshop) -> str:
    """Renames a validation case to what Matplotlib takes for mathematics that it cannot set."""
    cases = sorted(file.stem for file in workshop.images.glob("*.pkl"))
    for file in workshop.images.glob(f"{cases[0]}*"):
        file.rename(file.with_name(file.name.replace(cases[0], "a$\\b$")))
    (workshop.dataset / "splits_final.json").write_text(json.dumps([{"train": cases[1:], "val": ["a$\\b$"]}]))
    return "a$\\b$"


def test_a_case_of_any_name_is_trained_on_and_validated(workshop):
    case = case_with_a_formula(workshop)
    trainer = workshop.build(TopoMAEPretrainer, weight_topology=0, iterations_per_epoch=1)
    trainer.run_training()
    trainer.perform_actual_validation()
    summary = json.loads(Path(trainer.output_folder, "validation", "summary.json").read_text())
    assert [of_case["case"] for of_case in summary["metric_per_case"]] == [case]


def test_a_picture_that_cannot_be_written_is_a_line_in_the_log(workshop, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    monkeypatch.setattr("numpy.savez_compressed", full)
    trainer = workshop.build(TopoMAEPretrainer, weight_topology=0, iterations_per_epoch=1)
    trainer.run_training()
    trainer.perform_actual_validation()
    log = Path(trainer.log_file).read_text()
    for picture in ("progress.png", "the panels in ", f"{trainer.do_split()[1][0]}.png"):
        assert any(picture in line and "No space left" in line and "WARNING" in line for line in log.splitlines())
    assert trainer.current_epoch == 1 and Path(trainer.output_folder, "validation", "summary.json").is_file()

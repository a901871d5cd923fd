from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from nnunetv2.training.logging.nnunet_logger import WandbLogger

from nnunet_topomae.monitoring.panels import MAX_CASES, Panel, labels_in_panel, read_panels
from nnunet_topomae.pretext.position import crop_at, nine_points
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


def test_the_same_crops_after_the_first_epoch_every_nth_and_at_the_end(trained):
    """At the end there is one more, which here has the name of the last."""
    folder = Path(trained.pretrainer.output_folder, "progress")
    panels = read_panels(folder)
    cases = trained.pretrainer.do_split()[1][:MAX_CASES]
    assert [(panel.epoch, panel.case) for panel in panels] == [(epoch, case) for epoch in (1, 2) for case in cases]
    first, *_, last = panels[0], panels[-len(cases)]
    for name in ("image", "mask", "points"):
        assert np.array_equal(getattr(first, name), getattr(last, name))
    assert any(not np.array_equal(first.completed[name], last.completed[name]) for name in first.completed)
    assert imread(folder / f"epoch_0002_{cases[0]}.png").std() > 0


def test_a_panel_says_what_the_networks_saw_and_made(trained):
    trainer = trained.pretrainer
    (panel, *_) = read_panels(Path(trainer.output_folder, "progress"))
    assert 0.6 < panel.mask.mean() < 0.9
    low, high = panel.window
    for name, completed in panel.completed.items():
        assert np.array_equal(completed[~panel.mask], panel.image[~panel.mask])
        shown = (completed.astype(float) - panel.image)[panel.mask] / 255 * (high - low)
        assert np.mean(shown**2) == pytest.approx(panel.masked_mse[name], rel=0.2)  # 8 bits, the window's ends cut off
    assert panel.points.shape == (9, 3)
    assert panel.image.shape == tuple(trainer.configuration_manager.patch_size)
    assert np.allclose(panel.voxel_size, trainer.configuration_manager.spacing)


def test_a_training_learns_the_same_with_and_without_panels(workshop):
    states = []
    for panel_every in (0, 1):
        trainer = workshop.build(
            TopoMAEPretrainer, pretrain_epochs=2, iterations_per_epoch=1, weight_topology=0, panel_every=panel_every
        )
        trainer._seed_epoch = lambda: None  # else each epoch would begin anew, whatever was drawn between
        np.random.seed(0)
        trainer.run_training()
        states.append(trainer.network.state_dict())
        assert Path(trainer.output_folder, "progress").exists() == bool(panel_every)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_pictures_reach_wandb_and_no_checkpoint(workshop, monkeypatch):
    logged: dict[str, list[int]] = {}
    logger = WandbLogger.__new__(WandbLogger)  # without a run on wandb's side
    monkeypatch.setattr(WandbLogger, "log", lambda self, key, value, step: logged.setdefault(key, []).append(step))
    monkeypatch.setattr(WandbLogger, "update_config", lambda self, config: None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Image=lambda file: Path(file).read_bytes()))
    trainer = workshop.build(
        TopoMAEPretrainer, pretrain_epochs=2, iterations_per_epoch=1, weight_topology=0, panel_every=2
    )
    trainer.logger.loggers.append(logger)
    trainer.run_training()
    for case in trainer.do_split()[1][:MAX_CASES]:
        assert logged[f"progress/{case}"] == [0, 1]
    assert logged["train_position_vit"] == logged["val_reconstruction_partner"] == [0, 1]
    assert not [key for key in trainer.logger.get_checkpoint() if "progress" in key]


def test_a_damaged_file_is_named(tmp_path: Path):
    (tmp_path / "epoch_0001.npz").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="epoch_0001.npz cannot be read as panels of a pre-training"):
        read_panels(tmp_path)
    assert read_panels(tmp_path / "nowhere") == []


def test_labels_are_taken_to_the_crop_of_a_panel():
    labels = np.random.default_rng(0).integers(0, 4, (9, 11, 13))  # as in the file
    transpose_forward, box, lower, size = (2, 0, 1), ((1, 12), (0, 9), (2, 11)), (3, -2, 4), (6, 7, 8)
    cropped = labels.transpose(transpose_forward)[1:12, 0:9, 2:11]
    points = nine_points(crop_at(lower), size, cropped.shape).numpy()
    panel = Panel(*[None] * len(Panel._fields))._replace(image=np.zeros(size, np.uint8), points=points)

    found = labels_in_panel(panel, labels, transpose_forward, box)
    expected = np.pad(cropped, 8)[tuple(slice(8 + start, 8 + start + n) for start, n in zip(lower, size, strict=True))]
    assert np.array_equal(found, expected) and (found[:, :2] == 0).all()

"""Both trainers on a second device, from data to prediction, and how often the host waits for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from nnunet_topomae.topology import pool
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

KINDS = [
    (kind, partner) for kind in (TopoMAEPretrainer, TopoMAEFinetunerFromScratch) for partner in ("plan", "unetrpp")
]
TRAINERS = pytest.mark.parametrize("trainer_class, partner", KINDS)


@pytest.fixture
def build(workshop, planned_network, monkeypatch):
    """Builds a small trainer on a device; on the second one gradients are scaled as nnU-Net does on CUDA."""
    monkeypatch.setenv("nnUNet_compile", "f")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # which takes most of the time

    def build(trainer_class: type[nnUNetTrainer], device: str = "second", **knobs: object) -> nnUNetTrainer:
        plans = workshop.plans
        plans["configurations"]["3d_fullres"] |= {
            "patch_size": [16, 16, 16],
            "architecture": planned_network("PlainConvUNet", [[1, 1, 1], [2, 2, 2], [2, 2, 2]]),
        }
        knobs = {"augment_on": "device", "weight_topology": 100.0} | knobs
        trainer = workshop.build(trainer_class, plans=plans, **knobs)
        trainer.device = torch.device(device)
        if device == "second":
            trainer.device = torch.device(device, 0)
            trainer.grad_scaler = torch.amp.GradScaler(device)
        return trainer

    return build


def first_step(trainer: nnUNetTrainer) -> float:
    """Its loss."""
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    return float(trainer.train_step(next(trainer.dataloader_train))["loss"])


@TRAINERS
def test_a_step_is_the_cpus_and_the_host_hardly_waits(build, second_device, monkeypatch, trainer_class, partner):
    on_cpu, trainer = (build(trainer_class, device, partner=partner) for device in ("cpu", "second"))
    assert first_step(trainer) == pytest.approx(first_step(on_cpu), rel=1e-3)
    second_device.waits()
    with second_device.without_waits():  # augmented at the end of the step before
        batch = next(trainer.dataloader_train)
    collect = pool.collect
    monkeypatch.setattr(pool, "collect", lambda futures: second_device.wait_for("topology") or collect(futures))
    trainer.train_step(batch)
    ours, nnunets = ["topology"] * 2, ["copy to the host"]  # of each network; of the loss
    assert second_device.waits() == (ours if trainer_class is TopoMAEPretrainer else nnunets)


def test_it_waits_for_nothing_more_on_several_gpus(build, second_device):
    """Under nnU-Net's own -num_gpus, whose DDP copies to the GPU what its network is called with."""
    dist.init_process_group("cpu:fake,second:fake", store=FakeStore(), rank=0, world_size=1)
    trainer = build(TopoMAEPretrainer, weight_topology=0)
    first_step(trainer)
    assert isinstance(trainer.network, DistributedDataParallel)
    with second_device.without_waits():
        trainer.train_step(next(trainer.dataloader_train))


@TRAINERS
def test_a_training(build, second_device, trainer_class, partner):
    """With an interruption; of fine-tuning a prediction follows, which is the CPU's."""
    knobs = {"pretrain_epochs": 2, "finetune_epochs": 2, "iterations_per_epoch": 1, "finetune_weight_topology": 0.1}

    def interrupt() -> None:
        raise KeyboardInterrupt

    trainer = build(trainer_class, partner=partner, **knobs)
    end_of_epoch = trainer.on_epoch_end
    trainer.on_epoch_end = lambda: end_of_epoch() or interrupt()
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    trainer = build(trainer_class, partner=partner, **knobs)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    assert trainer.current_epoch == 1
    trainer.run_training()
    curves = trainer.logger.local_logger.my_fantastic_logging
    assert np.isfinite(curves["train_losses"] + curves["val_losses"]).tolist() == [True] * 4
    assert {weight.device.type for weight in trainer.network.parameters()} == {"second"}
    if trainer_class is TopoMAEPretrainer:
        return

    image, logits = torch.randn(1, 20, 24, 16, generator=torch.Generator().manual_seed(0)), []
    for device in (torch.device("cpu"), trainer.device):
        predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
        logits.append(predictor.predict_logits_from_preprocessed_data(image).cpu())
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)

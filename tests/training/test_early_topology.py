"""The order of a pre-training step, with an engine so slow that nothing may wait for it before the end."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


@pytest.fixture
def step(workshop):
    """A trainer with its first batch, without topology's own work."""
    trainer = workshop.build(TopoMAEPretrainer, iterations_per_epoch=4, topology_every=1, vit_steps=1)
    trainer.initialize()
    _, val = trainer.get_tr_and_val_datasets()
    loader = trainer._crop_loader(val, trainer.configuration_manager.patch_size, None)
    return trainer, loader.generate_train_batch()


class SlowEngine:
    """Stands for `TopologicalLoss`: an answer is there when `done` is set, which the last of the other losses does."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.done = log, threading.Event()

    def submit_diagrams(self, image):
        self.log.append("target submitted")
        return []

    def submit(self, completed, target, target_diagrams):
        self.log.append("reconstruction submitted")
        return self

    def result(self):
        self.log.append("waits for topology")
        assert self.done.wait(timeout=1), "topology is awaited before the other losses have been computed"
        self.loss = torch.zeros((), requires_grad=True)
        return self


def test_topology_is_computed_while_the_rest_goes_on(step, monkeypatch):
    trainer, batch = step
    log = []
    engine = SlowEngine(log)
    trainer.loss.topology = None  # a module, which only None replaces
    monkeypatch.setattr(type(trainer.loss), "topology", engine, raising=False)
    del trainer.loss._modules["topology"]
    for name in ("vit", "partner"):
        network = getattr(trainer.network, name)
        network.register_forward_pre_hook(lambda module, inputs, name=name: log.append(f"{name} begins"))

    def consistency(*arguments):
        log.append("consistency")
        engine.done.set()
        return torch.zeros(())

    monkeypatch.setattr("nnunet_topomae.losses.pretraining.reconstruction_consistency", consistency)
    trainer.train_step(batch)
    assert log == [
        "target submitted",
        "vit begins",
        "reconstruction submitted",
        "partner begins",
        "reconstruction submitted",
        "consistency",
        "waits for topology",
        "waits for topology",
    ]


def test_early_topology_is_the_topology_of_the_loss(step):
    trainer, batch = step
    trainer._seed_masks(0)
    total, early = trainer._forward(batch)
    trainer._seed_masks(0)
    masks = trainer._draw_masks(len(batch["data"]))
    output = trainer.network(batch["data"], masks)
    assert not trainer.early_topology._pending.keys() - {"vit", "partner"}
    terms = trainer.loss(output, batch["data"], batch["points"], masks, trainer.loss.submit_target(batch["data"]))
    for name in terms:
        torch.testing.assert_close(early[name], terms[name])
    torch.testing.assert_close(total, trainer.loss.total(terms))


def test_topology_every_k_steps_counts_k_times(step):
    trainer, batch = step
    weights = trainer.loss.weights

    def forward(every: int) -> tuple[torch.Tensor, dict]:
        trainer._seed_masks(0)
        trainer.config = replace(trainer.config, topology_every=every)
        return trainer._forward(batch)

    total, terms = forward(1)
    topology = weights["topology"] * (terms["topology_vit"] + terms["topology_partner"])
    for trainer.current_step in range(4):
        with_topology = trainer.current_step % 3 == 0
        now, terms = forward(3)
        assert ("topology_vit" in terms) == with_topology
        torch.testing.assert_close(now, total - topology + 3 * topology * with_topology)


def test_curves_are_means_over_the_steps_that_have_the_term(workshop):
    trainer = workshop.build(TopoMAEPretrainer, iterations_per_epoch=3, topology_every=2, pretrain_epochs=2)
    seen = []
    train_step = trainer.train_step
    trainer.train_step = lambda batch: seen.append(train_step(batch)) or seen[-1]
    trainer.run_training()
    assert all(isinstance(value, torch.Tensor) for step in seen for value in step.values())  # nothing was read
    assert ["topology_vit" in step for step in seen] == [True, False, True, False, True, False]
    curve = trainer.logger.local_logger.my_fantastic_logging["train_topology_vit"]
    expected = [(seen[0]["topology_vit"] + seen[2]["topology_vit"]).item() / 2, seen[4]["topology_vit"].item()]
    assert curve == pytest.approx(expected)
    assert Path(trainer.output_folder, "progress.png").is_file()

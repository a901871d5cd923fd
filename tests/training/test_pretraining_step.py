"""A step of pre-training on small networks, without nnU-Net."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.consistency import ReconstructionConsistency
from nnunet_topomae.losses.pretraining import PretrainingLoss
from nnunet_topomae.networks import CoPretrainingNetwork
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.pretext.position import from_centre
from nnunet_topomae.training.pretraining_step import VIT_ALONE, PretrainingStep
from nnunet_topomae.training.schedule import ParameterGroup, adamw

PLAN = {"patch_size": (16, 16, 24), "architecture": {"arch_kwargs": {"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}}}
BLUEPRINT = Blueprint.of(PLAN, TopoMAEConfig(partner="unetrpp", preset="tiny"))
GEOMETRY = BLUEPRINT.geometry
BATCH = {
    "data": torch.randn(2, 1, 16, 16, 24, generator=torch.Generator().manual_seed(0)),
    "points": torch.rand(2, 9, 3, generator=torch.Generator().manual_seed(1)),
    "volume_shape": torch.tensor([[20, 20, 30]] * 2),
}


def build(views: int = 2, **knobs: float) -> PretrainingStep:
    torch.manual_seed(0)
    config = TopoMAEConfig(**{"weight_topology": 100, "topology_max_side": 12} | knobs)
    network = CoPretrainingNetwork(1, *BLUEPRINT)
    optimizer = adamw([ParameterGroup("all", network.parameters(), 1e-3)], 0.05)
    loss = PretrainingLoss(config, GEOMETRY)
    spacing, device = (1.0, 1.0, 1.0), torch.device("cpu")
    step = PretrainingStep(network, network, loss, optimizer, None, config.mask_ratio, views, spacing, device)
    step.seed_masks(0, 0, 0)
    return step


def taken(step: PretrainingStep) -> dict[str, set[int]]:
    """Steps that the optimiser has taken, by network."""
    return {
        name: {
            int(step.optimizer.state[weight]["step"]) if weight in step.optimizer.state else 0
            for weight in network.parameters()
        }
        for name, network in step.branches.items()
    }


def test_both_networks_learn_and_of_the_vit_alone_it_alone():
    step = build(weight_topology=0)
    readings = step.train(BATCH)
    assert {"loss", "reconstruction_vit", "point_error_partner", "gradient_norm_vit", "clipped_partner"} < set(readings)
    assert not any(value.requires_grad for value in readings.values())
    before = {name: weight.clone() for name, weight in step.network.partner.named_parameters()}
    step.train(BATCH, VIT_ALONE, topology=0)
    assert taken(step) == {"vit": {2}, "partner": {1}}
    assert all(torch.equal(weight, before[name]) for name, weight in step.network.partner.named_parameters())


def test_each_network_is_clipped_by_its_own_norm():
    step = build()
    for network in step.branches.values():
        for weight in network.parameters():
            weight.grad = torch.ones_like(weight)
    readings = step.clip_gradients(("vit", "partner"))
    for name, network in step.branches.items():
        count = sum(weight.numel() for weight in network.parameters())
        assert readings[f"gradient_norm_{name}"].item() == pytest.approx(count**0.5)
        assert readings[f"clipped_{name}"]
        assert torch.cat([weight.grad.flatten() for weight in network.parameters()]).norm().item() == pytest.approx(
            1, rel=1e-3
        )


def test_a_loss_that_is_not_finite_is_an_error_before_anything_is_learnt():
    step = build(weight_topology=0)
    with pytest.raises(FloatingPointError, match="the loss is nan .reconstruction_vit nan"):
        step.train(BATCH | {"data": BATCH["data"] * float("nan")})
    assert taken(step) == {"vit": {0}, "partner": {0}}


def test_the_vit_gets_as_many_masks_as_it_is_to_have():
    masks = build(views=3).draw_masks(2)
    assert masks.shape == (2, 3, GEOMETRY.num_tokens)


def test_without_a_seed_each_training_draws_its_own_masks():
    def drawn(seed: int, rank: int = 0) -> tuple[torch.Tensor, ...]:
        step, masks = build(), []
        for epoch in (0, 1, -1, -1):  # -1: of validation
            step.seed_masks(seed, epoch, rank)
            masks.append(step.draw_masks(64))
        return tuple(masks)

    unseeded, other, seeded, again = (drawn(seed) for seed in (-1, -1, 0, 0))
    assert not torch.equal(unseeded[0], other[0]) and not torch.equal(unseeded[0], unseeded[1])
    assert torch.equal(unseeded[2], unseeded[3]) and torch.equal(unseeded[2], other[2])  # also after `--c`
    assert all(torch.equal(one, two) for one, two in zip(seeded, again, strict=True))
    assert not torch.equal(seeded[0], seeded[1]) and not torch.equal(seeded[0], drawn(0, rank=1)[0])


def test_topology_every_k_steps_counts_k_times():
    step = build()

    def forward(times: int) -> tuple[torch.Tensor, dict]:
        step.seed_masks(0, 0, 0)
        return step.forward(BATCH, topology=times)

    total, values = forward(1)
    topology = step.loss.topology.weight * (values["topology_vit"] + values["topology_partner"])
    assert topology > 0
    for times in (0, 3):
        now, values = forward(times)
        assert ("topology_vit" in values) == bool(times)
        torch.testing.assert_close(now, total + (times - 1) * topology)


def test_early_topology_is_the_topology_of_the_loss():
    step = build()
    _, early = step.forward(BATCH)
    step.seed_masks(0, 0, 0)
    masks = step.draw_masks(2)
    outputs = step.network(BATCH["data"], masks)._asdict()
    places = from_centre(BATCH["points"], BATCH["volume_shape"], step.spacing)
    target = step.loss.target(BATCH["data"], places, masks, step.loss.submit_target(BATCH["data"]))
    assert not target.pending  # nothing is handed over outside of a step
    for name, value in step.loss(outputs, target).items():
        torch.testing.assert_close(early[name], value)


def test_topology_is_computed_while_the_rest_goes_on(monkeypatch):
    """The order of a step, with an engine so slow that nothing may wait for it before the end."""
    step, log, done = build(), [], threading.Event()

    def result():
        log.append("waits for topology")
        assert done.wait(timeout=1), "topology is awaited before the other losses have been computed"
        return SimpleNamespace(loss=torch.zeros(()))

    def consistency(*arguments):
        log.append("consistency")
        done.set()
        return torch.zeros(())

    engine = SimpleNamespace(
        submit_diagrams=lambda image: log.append("target submitted") or [],
        submit=lambda *arguments: log.append("reconstruction submitted") or SimpleNamespace(result=result),
    )
    monkeypatch.setattr(step.loss.topology, "loss", engine)
    monkeypatch.setattr(ReconstructionConsistency, "of_both", consistency)
    for name, network in step.branches.items():
        network.register_forward_pre_hook(lambda module, inputs, name=name: log.append(f"{name} begins"))
    step.train(BATCH)
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

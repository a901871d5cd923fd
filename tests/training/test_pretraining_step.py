"""A step of pre-training on small networks, without nnU-Net."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.pretraining import PretrainingLoss
from nnunet_topomae.networks import CoPretrainingNetwork
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.training.pretraining_step import PretrainingStep
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
    config = TopoMAEConfig(**{"weight_topology": 100, "weight_position": 0.1, "topology_max_side": 12} | knobs)
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
    step.train(BATCH)
    assert taken(step) == {"vit": {1}, "partner": {1}}
    readings = step.train(BATCH, [BATCH, BATCH])
    assert taken(step) == {"vit": {4}, "partner": {2}}
    assert {"loss", "reconstruction_vit", "point_error_partner", "gradient_norm_vit", "clipped_partner"} < set(readings)
    assert not any(value.requires_grad for value in readings.values())


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
    with pytest.raises(FloatingPointError, match="the loss is nan .reconstruction_partner nan"):
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

    def validate(times: int) -> dict[str, torch.Tensor]:
        step.seed_masks(0, 0, 0)
        return step.validate(BATCH, topology=times)

    once = validate(1)
    topology = step.loss.topology.weight * (once["topology_vit"] + once["topology_partner"])
    assert topology > 0
    for times in (0, 3):
        now = validate(times)
        assert ("topology_vit" in now) == bool(times)
        torch.testing.assert_close(now["loss"], once["loss"] + (times - 1) * topology)


def test_each_network_follows_its_own_terms():
    step = build()
    target = step.target(BATCH)
    outputs = {branch: step.answer(branch, target) for branch in ("partner", "vit")}
    expected = {}
    for branch, network in step.branches.items():
        total = step.loss.total(step.loss(branch, outputs, target))
        expected[branch] = torch.autograd.grad(total, list(network.parameters()), retain_graph=True)
    step.backward(outputs, target)
    for branch, network in step.branches.items():
        torch.testing.assert_close([weight.grad for weight in network.parameters()], list(expected[branch]))


def test_the_host_waits_for_topology_alone_and_with_work_queued(monkeypatch):
    """The order of a step, by an engine that has a result no earlier than it is waited for."""
    step, log = build(), []

    def submit(completed, target, diagrams):
        branch = log[-1].split()[0]
        log.append(f"{branch} submitted")
        return SimpleNamespace(result=lambda: log.append(f"waits for {branch}") or no_topology)

    no_topology = SimpleNamespace(loss=torch.zeros(()))
    engine = SimpleNamespace(submit_diagrams=lambda image: log.append("target submitted") or [], submit=submit)
    monkeypatch.setattr(step.loss.topology, "loss", engine)
    for name, network in step.branches.items():
        network.register_forward_pre_hook(lambda module, inputs, name=name: log.append(f"{name} forward"))
        last = next(iter(network.encoder.parameters()))  # whose gradient comes last
        last.register_post_accumulate_grad_hook(lambda weight, name=name: log.append(f"{name} backward"))
    step.optimizer.register_step_post_hook(lambda *_: log.append("optimiser"))
    step.train(BATCH, [BATCH, BATCH])
    of_the_vit_alone = ["vit forward", "vit backward", "optimiser"]
    assert log == [
        "target submitted",
        "partner forward",
        "partner submitted",
        *of_the_vit_alone,
        *of_the_vit_alone,
        "vit forward",
        "vit submitted",
        "waits for partner",
        "partner backward",
        "waits for vit",
        "vit backward",
        "optimiser",
    ]

import pytest
import torch
from torch import nn

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.networks.presets import PRESETS
from nnunet_topomae.training.schedule import ParameterGroup, WarmupCosineSchedule, adamw, peak_rates


def adam_of(*peaks: float, weight_decay: float = 0.1) -> torch.optim.AdamW:
    groups = [ParameterGroup(f"part {peak}", nn.Linear(3, 2).parameters(), peak) for peak in peaks]
    return adamw(groups, weight_decay)


def learning_rates(num_epochs: int, steps_per_epoch: int) -> list[float]:
    schedule = WarmupCosineSchedule(adam_of(1.0), num_epochs, steps_per_epoch)
    return [schedule.factor(step) for step in range(num_epochs * steps_per_epoch)]


@pytest.mark.parametrize("epochs, steps_per_epoch", [(12, 50), (600, 1)])
def test_it_rises_step_by_step_then_falls_and_never_reaches_zero(epochs, steps_per_epoch):
    rates = learning_rates(epochs, steps_per_epoch)
    assert rates[:30] == pytest.approx([(i + 1) / 31 for i in range(30)])
    assert rates[30] == 1 and all(a > b for a, b in zip(rates[30:], rates[31:], strict=False)) and rates[-1] > 0
    assert rates[315] == pytest.approx(0.5)  # half-way down the cosine


def test_a_single_step_trains():
    assert learning_rates(1, 1) == [1]


def test_steps_within_an_epoch_and_a_resumed_epoch_meet():
    optimizer = adam_of(1.0)
    schedule = WarmupCosineSchedule(optimizer, 10, 5)
    schedule.step(3)
    for _ in range(5):
        schedule.advance()
    walked = optimizer.param_groups[0]["lr"]
    schedule.step(4)
    assert optimizer.param_groups[0]["lr"] == walked


def test_every_group_follows_its_own_peak_and_biases_are_not_decayed():
    optimizer = adam_of(1.0, 0.1, weight_decay=0.05)
    WarmupCosineSchedule(optimizer, 10, 1).step(5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.5, 0.05, 0.05])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0, 0.05, 0]
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == 2 * (3 * 2 + 2)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_vit_learns_as_fast_beside_the_plans_network(preset):
    beside_plan, beside_unetrpp = (
        peak_rates(TopoMAEConfig(preset=preset, partner=partner)) for partner in ("plan", "unetrpp")
    )
    for rates in (beside_plan, beside_unetrpp):
        assert rates.vit_finetune_factor * rates.finetune == pytest.approx(PRESETS[preset].finetune_lr)
        assert rates.vit_pretrain_factor * rates.pretrain == pytest.approx(PRESETS[preset].pretrain_lr)
    assert peak_rates(TopoMAEConfig(partner="plan", finetune_lr=0.5)).finetune == 0.5

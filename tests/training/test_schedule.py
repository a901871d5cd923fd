import pytest
from torch import nn

from nnunet_topomae.training.schedule import WarmupCosineSchedule, adamw


def learning_rates(num_epochs: int, warmup_fraction: float) -> list[float]:
    schedule = WarmupCosineSchedule(adamw([(nn.Linear(2, 2).parameters(), 1.0)], 0.1), num_epochs, warmup_fraction)
    return [schedule.factor(epoch) for epoch in range(num_epochs)]


def test_it_rises_then_falls_and_never_reaches_zero():
    rates = learning_rates(100, 0.1)
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10] == 1 and all(a > b for a, b in zip(rates[10:], rates[11:], strict=False)) and rates[-1] > 0
    assert rates[55] == pytest.approx(0.5)  # half-way down the cosine


@pytest.mark.parametrize("warmup_fraction", [0, 0.05, 1])
def test_a_single_epoch_trains(warmup_fraction):
    assert learning_rates(1, warmup_fraction)[0] > 0


def test_every_group_follows_its_own_peak_and_biases_are_not_decayed():
    first, second = nn.Linear(3, 2), nn.Linear(2, 1)
    optimizer = adamw([(first.parameters(), 1.0), (second.parameters(), 0.1)], weight_decay=0.05)
    WarmupCosineSchedule(optimizer, 10, 0).step(5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.5, 0.05, 0.05])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0, 0.05, 0]
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == 3 * 2 + 2 + 2 * 1 + 1

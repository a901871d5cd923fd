"""Where a knob takes 0 or 1, a training with it trains; where 0 means off, it is off."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_topomae.config import ConfigError, TopoMAEConfig
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

NOT_HERE = ("pretrained", "weight_reconstruction", "pretrain_lr", "finetune_lr")


def all_at(value: str) -> dict[str, str]:
    """All knobs that take this value, but for those that choose a file or leave nothing to train."""
    taken = {}
    for knob in fields(TopoMAEConfig):
        try:
            TopoMAEConfig(**{knob.name: value})
        except ConfigError:
            continue
        taken[knob.name] = value
    return {name: value for name, value in taken.items() if name not in NOT_HERE}


def train(workshop, trainer_class, num_steps: int = 1, **knobs) -> tuple[nn.Module, set[str], float]:
    """The network after training steps, the names of the parameters that they moved, and the last loss."""
    torch.manual_seed(0)
    np.random.seed(0)
    trainer = workshop.build(trainer_class, **knobs)
    trainer.on_train_start()
    before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    for _ in range(num_steps):
        loss = float(trainer.train_step(next(trainer.dataloader_train))["loss"])
    moved = {name for name, p in trainer.network.named_parameters() if not torch.equal(p, before[name])}
    return trainer.network, moved, loss


@pytest.mark.parametrize("trainer_class", [TopoMAEPretrainer, TopoMAEFinetunerFromScratch])
@pytest.mark.parametrize("value", ["0", "1"])
def test_all_knobs_at_their_least_or_at_one_train(workshop, trainer_class, value):
    rates = {"vit_pretrain_lr_factor": 1, "vit_finetune_lr_factor": 1}  # at 0 a ViT stays as it is
    network, moved, loss = train(workshop, trainer_class, num_steps=2, **all_at(value) | rates)
    assert np.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert len(moved) > 0.9 * len(list(network.parameters()))


def test_a_learning_rate_of_0_moves_nothing_and_the_log_says_so(workshop, capsys):
    assert not train(workshop, TopoMAEPretrainer, weight_topology=0, pretrain_lr=0)[1]
    assert "The learning rate is 0" in capsys.readouterr().out

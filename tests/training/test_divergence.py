"""A training that has diverged ends with advice and leaves its last good checkpoint, with a gradient scaler too."""

import math
from collections import Counter
from collections.abc import Container
from pathlib import Path

import pytest
import torch
from torch.amp import GradScaler

from nnunet_topomae.training.divergence import StepCounter
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

REMEDY = {TopoMAEPretrainer: "Lower NNUNET_TOPOMAE_PRETRAIN_LR", TopoMAEFinetunerFromScratch: "Lower .*_FINETUNE_LR"}
BOTH = pytest.mark.parametrize("trainer_class", REMEDY)


def scaled(workshop, trainer_class, init_scale: float = 1.0):
    """A trainer of three epochs with the gradient scaler that a GPU's training has."""
    trainer = workshop.build(trainer_class, pretrain_epochs=3, finetune_epochs=3, weight_topology=0, panel_every=0)
    trainer.grad_scaler = GradScaler("cpu", init_scale=init_scale)
    trainer.initialize()
    return trainer


def spoil_gradients(trainer, first_epoch: int, last_epoch: int = 1000) -> None:
    """In these epochs each gradient is infinite, while the losses stay as they are."""

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (math.inf if first_epoch <= trainer.current_epoch <= last_epoch else 1)

    for parameter in trainer.network.parameters():
        parameter.register_hook(spoil)


def spoil_loss(trainer, first_epoch: int, last_epoch: int = 1000, only: Container[int] = range(1000)) -> None:
    """In these epochs the loss is NaN, or `only` in calls of these numbers, counted in an epoch."""
    calls = Counter()
    criterion = trainer.loss
    owner, name = (criterion, "total") if isinstance(trainer, TopoMAEPretrainer) else (trainer, "loss")
    original = getattr(owner, name)

    def spoiled(*arguments):
        calls[epoch := trainer.current_epoch] += 1
        is_bad = first_epoch <= epoch <= last_epoch and calls[epoch] in only
        return original(*arguments) * (math.nan if is_bad else 1)

    object.__setattr__(owner, name, spoiled)


def after_first_epoch(trainer) -> dict[str, bytes]:
    """Filled with the checkpoints that there are after the first epoch."""
    files: dict[str, bytes] = {}
    on_epoch_end = trainer.on_epoch_end

    def read() -> None:
        on_epoch_end()
        files.update(files or checkpoints(trainer))

    trainer.on_epoch_end = read
    return files


def checkpoints(trainer) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(trainer.output_folder).glob("checkpoint_*")}


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_does_not_count(fused):
    weight, scaler = torch.ones(3, requires_grad=True), GradScaler("cpu")
    optimizer = torch.optim.AdamW([weight], fused=fused)
    counter = StepCounter(optimizer)
    for factor in (1, math.inf, 1):
        optimizer.zero_grad()
        scaler.scale(factor * weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    optimizer.step()  # without a scaler
    assert counter.stop() == 3 and weight.isfinite().all()


@BOTH
def test_an_epoch_without_a_step_ends_the_training(workshop, trainer_class):
    trainer = scaled(workshop, trainer_class)
    spoil_gradients(trainer, first_epoch=1)
    good = after_first_epoch(trainer)
    steps = 4 if trainer_class is TopoMAEPretrainer else 2  # two of both networks, each with one of the ViT alone
    skipped = f"the gradient scaler skipped all {steps},"
    message = f"no step was taken in epoch 1: {skipped}.*{REMEDY[trainer_class]}.*--c: .*latest"
    with pytest.raises(FloatingPointError, match=message):
        trainer.run_training()
    assert "checkpoint_latest.pth" in good and checkpoints(trainer) == good


@BOTH
def test_an_epoch_whose_mean_loss_is_not_finite_ends_the_training(workshop, trainer_class):
    trainer = scaled(workshop, trainer_class)
    spoil_loss(trainer, first_epoch=1)
    good = after_first_epoch(trainer)
    with pytest.raises(FloatingPointError, match=f"the mean loss of epoch 1 is nan. {REMEDY[trainer_class]}.*--c"):
        trainer.run_training()
    assert "checkpoint_latest.pth" in good and checkpoints(trainer) == good


@BOTH
def test_one_loss_that_a_scaler_skips_ends_no_training_unless_it_comes_again(workshop, trainer_class):
    """Pre-training takes a step of the ViT alone (calls 1, 2), then one of both: a backward pass each, and the sum."""
    of_one_step = {TopoMAEPretrainer: (3, 4, 5), TopoMAEFinetunerFromScratch: (2,)}[trainer_class]
    trainer = scaled(workshop, trainer_class)
    spoil_loss(trainer, first_epoch=1, last_epoch=1, only=of_one_step)
    trainer.run_training()
    losses = trainer.logger.get_value("train_losses", step=None)
    assert [math.isfinite(loss) for loss in losses] == [True, False, True]

    trainer = scaled(workshop, trainer_class)
    spoil_loss(trainer, first_epoch=1, only=of_one_step)
    with pytest.raises(FloatingPointError, match="the mean loss of epoch 2 is nan"):
        trainer.run_training()


@BOTH
def test_without_a_scaler_a_loss_that_is_not_finite_ends_the_training_at_once(workshop, trainer_class):
    trainer = workshop.build(trainer_class, weight_topology=0)
    trainer.initialize()
    spoil_loss(trainer, first_epoch=0)
    message = f"the loss is nan.*{REMEDY[trainer_class]}.*start again: no checkpoint has been written"
    with pytest.raises(FloatingPointError, match=message):
        trainer.run_training()
    assert not checkpoints(trainer)


def test_the_search_for_a_scale_at_the_start_is_no_divergence(workshop):
    trainer = scaled(workshop, TopoMAEFinetunerFromScratch, init_scale=2.0**16)
    spoil_gradients(trainer, first_epoch=0, last_epoch=0)
    trainer.run_training()
    assert trainer.current_epoch == 3 and trainer.grad_scaler.get_scale() == 2.0**14


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_never_replace_a_checkpoint(workshop, trainer_class, bad):
    trainer = workshop.build(trainer_class)
    trainer.initialize()
    file = Path(trainer.output_folder, "checkpoint_latest.pth")
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()
    with torch.no_grad():
        next(trainer.network.parameters()).view(-1)[-1] = bad
    with pytest.raises(FloatingPointError, match="weights are NaN or infinite.*checkpoint_latest.pth is from before"):
        trainer.save_checkpoint(str(file))
    assert checkpoints(trainer) == {file.name: before}

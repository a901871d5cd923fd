"""nnU-Net's strongest augmentation under its AdamW, and under ours: mixed in as any variant of its trainers."""

import sys
from pathlib import Path

import pytest
from batchgeneratorsv2.transforms.local.brightness_gradient import BrightnessGradientAdditiveTransform
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam1en3

from nnunet_topomae.training.finetuner import TopoMAEFinetuner

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "trainers"))
from DA5Finetuner import DA5Finetuner  # noqa: E402
from nnUNetTrainerDA5Adam1en3 import nnUNetTrainerDA5Adam1en3  # noqa: E402


@pytest.mark.parametrize(
    ("trainer_class", "of_whom"), [(DA5Finetuner, TopoMAEFinetuner), (nnUNetTrainerDA5Adam1en3, nnUNetTrainerAdam1en3)]
)
def test_the_optimiser_is_of_one_and_the_augmentation_of_the_other(workshop, trainer_class, of_whom, monkeypatch):
    drawn, get_parameters = [], BrightnessGradientAdditiveTransform.get_parameters
    monkeypatch.setattr(
        BrightnessGradientAdditiveTransform,
        "get_parameters",
        lambda self, **sample: drawn.append(True) or get_parameters(self, **sample),
    )
    trainer = workshop.build(trainer_class, finetune_epochs=1, iterations_per_epoch=20, partner="plan", seed=0)
    trainer.initialize()
    assert trainer.configure_optimizers.__func__ is of_whom.configure_optimizers
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    for _ in range(20):
        next(trainer.dataloader_train)
    assert drawn

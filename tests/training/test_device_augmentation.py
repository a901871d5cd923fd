"""Training with the augmentation on the training device, which is a CPU here: the code is the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import pin_memory_of_all_eligible_items_in_dict
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from nnunet_topomae.augmentation.pipeline import UnknownTransformError
from nnunet_topomae.training.finetuner import TopoMAEFinetuner, TopoMAEFinetunerFromScratch
from nnunet_topomae.training.prefetch import Prefetcher
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

BOTH = pytest.mark.parametrize("trainer_class", [TopoMAEPretrainer, TopoMAEFinetunerFromScratch])


def started(workshop, trainer_class, **knobs):
    """A trainer before its first step."""
    trainer = workshop.build(trainer_class, **{"augment_on": "device", "iterations_per_epoch": 3} | knobs)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    return trainer


def batches(trainer, number: int) -> list[torch.Tensor]:
    return [next(trainer.dataloader_train)["data"] for _ in range(number)]


@BOTH
def test_it_trains_and_workers_end(workshop, monkeypatch, trainer_class):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer = workshop.build(trainer_class, augment_on="device", pretrain_epochs=2, finetune_epochs=2)
    trainer.run_training()
    assert not isinstance(trainer.dataloader_train, Prefetcher)
    assert not trainer.dataloader_train._processes
    assert "Augmentation on cpu" in Path(trainer.log_file).read_text()
    losses = trainer.logger.local_logger.my_fantastic_logging["train_losses"]
    assert len(losses) == 2 and np.isfinite(losses).all()


@BOTH
def test_a_batch_is_as_one_of_the_workers(workshop, trainer_class):
    ours, theirs = (
        next(started(workshop, trainer_class, augment_on=place).dataloader_train) for place in ("device", "workers")
    )
    assert ours.keys() == theirs.keys()

    def kind(value):
        if isinstance(value, list):
            return [kind(each) for each in value]
        return (value.shape, value.dtype) if isinstance(value, torch.Tensor) else len(value)

    assert {name: kind(value) for name, value in ours.items()} == {name: kind(value) for name, value in theirs.items()}


@BOTH
def test_a_seed_decides_each_batch_and_ranks_differ(workshop, trainer_class, monkeypatch):
    monkeypatch.setattr("nnunet_topomae.training.pretrainer.TRANSFORM_PROBABILITY", 1)
    first, again = (batches(started(workshop, trainer_class, seed=3), 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))

    trainer = started(workshop, trainer_class, seed=3)
    raw = {"samples": [{"image": torch.arange(64**3.0).view(1, 64, 64, 64)}], "keys": ["case"]}
    origins = []
    for epoch, number, rank in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        trainer.current_epoch, trainer.local_rank = epoch, rank
        trainer.collate = lambda samples: {}
        trainer._augmented(lambda **sample: origins.append((np.random.uniform(), torch.rand(1).item())), 3, raw, number)
    assert len(set(origins)) == 4


@BOTH
def test_a_seed_decides_what_a_data_worker_draws(workshop, trainer_class, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    first, again, other = (
        batches(started(workshop, trainer_class, augment_on="workers", seed=seed), 3) for seed in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@BOTH
def test_a_batch_whose_memory_was_pinned_is_the_same(workshop, trainer_class, monkeypatch):
    """On CUDA batchgenerators puts each batch together again, lists, tuples and dictionaries, with pinned tensors."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    plain = batches(started(workshop, trainer_class, seed=3), 8)
    trainer = started(workshop, trainer_class, seed=3)
    trainer.dataloader_train.source = map(pin_memory_of_all_eligible_items_in_dict, trainer.dataloader_train.source)
    assert all(torch.equal(a, b) for a, b in zip(plain, batches(trainer, 8), strict=True))


@BOTH
def test_augmentation_leaves_other_random_numbers_alone(workshop, trainer_class):
    """NumPy's generator moves only by what the data loader draws, PyTorch's not at all."""
    trainer = started(workshop, trainer_class)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    batches(trainer, 2)
    assert torch.equal(torch.rand(1), expected)


def test_a_subclass_that_changes_the_pipeline_is_followed(workshop):
    class OnlyInverted(TopoMAEFinetunerFromScratch):
        @staticmethod
        def get_training_transforms(*args, **kwargs):
            pipeline = TopoMAEFinetunerFromScratch.get_training_transforms(*args, **kwargs)
            pipeline.transforms = [*pipeline.transforms[:1], pipeline.transforms[-1]]  # spatial, deep supervision
            pipeline.transforms[0].p_rotation = pipeline.transforms[0].p_scaling = 0
            return pipeline

    trainer = started(workshop, OnlyInverted)
    np.random.seed(0)
    augmented = next(trainer.dataloader_train)
    np.random.seed(0)
    sample = next(trainer.dataloader_train.source)["samples"][0]
    assert torch.equal(augmented["data"][0], sample["image"])
    assert (augmented["target"][0][0] == -1).any() == (sample["segmentation"] == -1).any()


class Strange(ImageOnlyTransform):
    def _apply_to_image(self, img, **params):
        return img


class WithStrangeTransform(TopoMAEFinetunerFromScratch):
    @staticmethod
    def get_training_transforms(*args, **kwargs):
        return ComposeTransforms([TopoMAEFinetunerFromScratch.get_training_transforms(*args, **kwargs), Strange()])


def test_a_transform_that_nobody_knows_goes_to_the_workers_unless_the_device_is_asked_for_by_name(workshop):
    trainer = workshop.build(WithStrangeTransform, augment_on="device")
    with pytest.raises(UnknownTransformError, match="Strange is not known.*AUGMENT_ON=workers"):
        trainer.run_training()

    trainer = workshop.build(WithStrangeTransform, augment_on="auto")
    trainer.initialize()
    trainer.device = torch.device("cuda")
    pipeline = trainer.get_training_transforms((16, 16, 16), (-0.5, 0.5), None, (0, 1, 2), False)
    assert trainer.wants_the_device and trainer.halves(pipeline) is None
    trainer.device = torch.device("cpu")
    said = "Data workers augment: the transform Strange is not known"
    assert said in Path(trainer.log_file).read_text()
    assert next(started(workshop, WithStrangeTransform, augment_on="workers").dataloader_train)["data"].ndim == 5


def test_a_cascade_goes_to_the_workers_and_the_log_says_so(workshop):
    plans = workshop.plans
    plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"] | {"next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    finetuner, pretrainer = (
        workshop.build(trainer_class, configuration="3d_cascade_fullres", plans=plans, augment_on="device")
        for trainer_class in (TopoMAEFinetuner, TopoMAEPretrainer)
    )
    assert not finetuner.wants_the_device and pretrainer.wants_the_device  # which sees no previous stage
    assert finetuner.halves(ComposeTransforms([])) is None
    assert "Data workers augment: a cascade's previous segmentation" in Path(finetuner.log_file).read_text()


@pytest.mark.parametrize(
    "knob, device, on_device",
    [
        ("auto", "cuda", True),
        ("auto", "cpu", False),
        ("auto", "mps", False),
        ("device", "cpu", True),
        ("workers", "cuda", False),
    ],
)
def test_where_it_augments(workshop, knob, device, on_device):
    trainer = workshop.build(TopoMAEPretrainer, augment_on=knob)
    trainer.device = torch.device(device)
    assert trainer.wants_the_device == on_device


def test_a_device_that_cannot_resample_is_an_error_that_says_so(workshop, monkeypatch):
    def not_implemented(*args, **kwargs):
        raise NotImplementedError("grid_sampler_3d")

    monkeypatch.setattr("nnunet_topomae.training.device_augmentation.grid_sample", not_implemented)
    with pytest.raises(RuntimeError, match="cannot resample volumes on cpu.*AUGMENT_ON=workers"):
        workshop.build(TopoMAEPretrainer, augment_on="device").run_training()

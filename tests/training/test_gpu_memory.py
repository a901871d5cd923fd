"""A GPU that is too small: said before training, and again when it is out of memory. The GPU is a fake."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_topomae.planning.memory import GIB
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


@pytest.fixture
def on_gpu(workshop, monkeypatch):
    """Builds a trainer on a CPU that believes to be on a GPU of so many GiB."""

    def build(trainer_class, memory_gib: float):
        trainer = workshop.build(trainer_class)
        trainer.initialize()
        properties = SimpleNamespace(total_memory=memory_gib * GIB)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        trainer.device = torch.device("cuda")
        return trainer

    return build


@pytest.mark.parametrize("trainer_class", [TopoMAEPretrainer, TopoMAEFinetunerFromScratch])
def test_a_small_card_is_warned_of_before_training_and_named_when_out_of_memory(on_gpu, monkeypatch, trainer_class):
    def out_of_memory(trainer) -> None:
        trainer._compare_with_gpu()
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(nnUNetTrainer, "run_training", out_of_memory)
    small = on_gpu(trainer_class, 2**-10)
    with pytest.raises(
        torch.cuda.OutOfMemoryError, match="CUDA out of memory.\nBy estimate preset tiny needs(.|\n)*plan"
    ):
        small.run_training()
    assert "WARNING: the GPU may be too small. By estimate preset tiny needs" in Path(small.log_file).read_text()

    Path(small.log_file).unlink()  # a trainer of the same second writes into the same file

    large = on_gpu(trainer_class, 64)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="this GPU has 64.0 GiB"):
        large.run_training()
    assert "WARNING" not in Path(large.log_file).read_text()

"""Whether a tensor of a step stays behind on the CPU. Fake tensors have a device and a shape, and need no GPU."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from nnunet_topomae.networks.copretrain import token_ids
from nnunet_topomae.training.finetuner import TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer

CUDA = torch.device("cuda", 0)


@pytest.fixture
def trainer_and_batch(workshop, monkeypatch):
    """A trainer whose network is on a fake GPU, and a batch as its loader gives it, on the host; to use in a mode."""
    monkeypatch.setenv("nnUNet_compile", "f")

    def build(trainer_class, mode: FakeTensorMode, **knobs):
        trainer = workshop.build(trainer_class, augment_on="workers", **knobs)
        trainer.initialize()
        batch = next(trainer.get_dataloaders()[0])
        trainer.device = CUDA
        if hasattr(trainer, "step"):
            trainer.step.device = CUDA
            with mode:
                trainer.step.spacing = torch.empty(3, device=CUDA)
        with mode:
            for module in trainer.network.modules():
                for name, weight in module._parameters.items():
                    if weight is not None:
                        module._parameters[name] = nn.Parameter(torch.empty(weight.shape, device=CUDA))
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = torch.empty(buffer.shape, device=CUDA, dtype=buffer.dtype)
        return trainer, tree_map_only(torch.Tensor, mode.from_tensor, batch)

    return build


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # autocast
@pytest.mark.parametrize("partner", ["plan", "unetrpp"])
def test_a_step_of_pretraining(trainer_and_batch, monkeypatch, partner):
    """Without topology, which is computed on the host."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    trainer, batch = trainer_and_batch(TopoMAEPretrainer, mode, partner=partner, weight_topology=0)
    masks = trainer.step.draw_masks(len(batch["data"]))
    ids = [mode.from_tensor(tokens) for tokens in token_ids(masks, torch.device("cpu"))]
    with mode:
        ids = [tokens.to(CUDA) for tokens in ids]
    monkeypatch.setattr(trainer.step, "draw_masks", lambda _: masks)
    for module in ("networks.copretrain", "losses.pretraining"):  # a fake mask cannot be read
        monkeypatch.setattr(f"nnunet_topomae.{module}.token_ids", lambda masks, device: ids)
    with mode:
        assert {value.device for value in trainer.validation_step(batch).values()} == {CUDA}


@pytest.mark.parametrize("partner", ["plan", "unetrpp"])
def test_a_step_of_finetuning(trainer_and_batch, partner):
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    trainer, batch = trainer_and_batch(TopoMAEFinetunerFromScratch, mode, partner=partner)
    with mode:
        outputs = trainer.network(batch["data"].to(CUDA))
        assert trainer.loss(outputs, [target.to(CUDA) for target in batch["target"]]).device == CUDA


def test_a_tensor_left_behind_is_found():
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="same device"):
        torch.empty(2, device=CUDA) + torch.ones(2)

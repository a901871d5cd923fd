"""Two processes on CPUs, joined by gloo."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch import nn

from nnunet_topomae.launch import join_processes
from nnunet_topomae.topology.pool import usable_cores
from nnunet_topomae.training.distributed import SyncBatchNormOnCPU, place
from nnunet_topomae.training.finetuner import TopoMAEFinetuner, TopoMAEFinetunerFromScratch
from nnunet_topomae.training.pretrainer import TopoMAEPretrainer


@pytest.fixture
def build(workshop):
    """Builds a trainer with a batch of four, in this process or in one of two."""

    def build(trainer_class, **knobs):
        plans = workshop.plans
        plans["configurations"]["3d_fullres"]["batch_size"] = 4
        trainer = workshop.build(trainer_class, plans=plans, **knobs)
        place(trainer, torch.device("cpu"))
        return trainer

    return build


def gradients(trainer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in trainer.plain_network.named_parameters()}


def pretraining_gradients(trainer, batch: dict, branches=("partner", "vit")) -> tuple[dict, dict[str, torch.Tensor]]:
    """With the terms; those of the ViT alone without topology."""
    step = trainer.step
    target = step.target(batch, with_topology=len(branches) == 2)
    terms = step.backward({branch: step.answer(branch, target) for branch in branches}, target)
    weights = trainer.plain_network.named_parameters()
    return terms, {name: weight.grad.clone() for name, weight in weights if weight.grad is not None}


def initialised(trainer):
    """Without dropout, whose draws differ between one process and two; γ, which starts at 1e-6, made visible."""
    trainer.initialize()
    if isinstance(trainer, TopoMAEPretrainer):
        trainer.step.seed_masks(0, 0, trainer.local_rank)
    trainer.network.train()
    for module in trainer.network.modules():
        if isinstance(module, nn.Dropout3d):
            module.p = 0.0
    for name, parameter in trainer.plain_network.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.1)
    return trainer


each_partner = pytest.mark.parametrize("partner", ["unetrpp", "plan"])


@pytest.fixture
def double_precision():
    """In single precision, rounding decides signs in constant regions, and which of two voxels is the critical one."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def part(batch: dict, rank: int) -> dict:
    """Half of a batch of four."""
    return {name: value[2 * rank : 2 * rank + 2] for name, value in batch.items()}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= 1e-6 * theirs[name].norm().clamp_min(1e-6), name


@each_partner
def test_two_processes_pretrain_as_one_with_twice_the_batch(build, on_two_ranks, double_precision, partner):
    np.random.seed(0)
    knobs = {"topology_tolerance": 1e-6, "partner": partner}
    alone = initialised(build(TopoMAEPretrainer, **knobs))
    _, val = alone.get_tr_and_val_datasets()
    batch = alone.crop_loader(val).generate_train_batch()
    batch["data"] = batch["data"].double()

    def of_rank(rank: int):
        join_processes("cpu")
        trainer = initialised(build(TopoMAEPretrainer, **knobs))
        assert trainer.batch_size == 2 and usable_cores() >= 1
        mask = trainer.step.draw_masks(2)
        trainer.step.draw_masks = lambda batch_size: mask
        terms, grads = pretraining_gradients(trainer, part(batch, rank))
        return mask, terms["topology_partner"].item(), grads, trainer.plain_network.state_dict()

    (mask_0, topology_0, grads_0, state), (mask_1, topology_1, grads_1, _) = on_two_ranks(of_rank)
    assert not torch.equal(mask_0, mask_1)  # each rank draws its own
    alone.step.draw_masks = lambda batch_size: torch.cat([mask_0, mask_1])
    terms, grads = pretraining_gradients(alone, batch)

    assert all(torch.equal(grads_0[name], grads_1[name]) for name in grads_0)
    assert_same(grads_0, grads)
    assert (topology_0 + topology_1) / 2 == pytest.approx(terms["topology_partner"].item(), rel=1e-3)
    statistics = {name: value for name, value in alone.plain_network.state_dict().items() if "running_" in name}
    assert bool(statistics) == (partner == "unetrpp")
    assert_same({name: state[name] for name in statistics}, statistics)


def test_steps_of_the_vit_alone_on_two_processes(build, on_two_ranks, double_precision):
    """Its gradient is that of both batches; the partner gets none and stays as it is."""
    np.random.seed(0)
    alone = initialised(build(TopoMAEPretrainer))
    _, val = alone.get_tr_and_val_datasets()
    batch = alone.crop_loader(val).generate_train_batch()
    batch["data"] = batch["data"].double()

    def of_rank(rank: int):
        join_processes("cpu")
        trainer = initialised(build(TopoMAEPretrainer))
        mask = trainer.step.draw_masks(2)
        trainer.step.draw_masks = lambda batch_size: mask
        before = {name: value.clone() for name, value in trainer.plain_network.partner.state_dict().items()}
        _, grads = pretraining_gradients(trainer, part(batch, rank), ["vit"])
        target = trainer.step.target(part(batch, rank), with_topology=False)
        trainer.step.update({"vit": trainer.step.answer("vit", target)}, target)
        return mask, grads, before, trainer.plain_network.state_dict()

    (mask_0, grads_0, before, after), (mask_1, *_) = on_two_ranks(of_rank)
    alone.step.draw_masks = lambda batch_size: torch.cat([mask_0, mask_1])
    assert_same(grads_0, pretraining_gradients(alone, batch, ["vit"])[1])
    assert all(torch.equal(after[f"partner.{name}"], value) for name, value in before.items())
    assert not torch.equal(after["vit.encoder.norm.weight"], alone.plain_network.vit.encoder.norm.weight)


@each_partner
def test_two_processes_finetune_as_one_with_twice_the_batch(build, on_two_ranks, double_precision, partner):
    alone = initialised(build(TopoMAEFinetunerFromScratch, partner=partner))
    _, val = alone.get_tr_and_val_datasets()
    image = torch.randn(4, 1, *alone.configuration_manager.patch_size, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (4, 1, *image.shape[2:]), generator=torch.Generator().manual_seed(0)).float()
    targets = [
        nn.functional.interpolate(labels, scale_factor=scale, mode="nearest")
        for scale in alone._get_deep_supervision_scales()
    ]

    def of_rank(rank: int):
        join_processes("cpu")
        trainer = initialised(build(TopoMAEFinetunerFromScratch, partner=partner))
        mine = slice(2 * rank, 2 * rank + 2)
        loss = trainer.loss(trainer.network(image[mine]), [target[mine] for target in targets])
        return gradients(trainer, loss), trainer.loss.weight_factors

    (grads_0, weights), (grads_1, _) = on_two_ranks(of_rank)
    assert all(torch.equal(grads_0[name], grads_1[name]) for name in grads_0)
    alone.loss.weight_factors = weights  # nnU-Net gives the plan's coarsest output 0, and 1e-6 on several ranks
    assert_same(grads_0, gradients(alone, alone.loss(alone.network(image), targets)))


def test_both_trainers_train_and_validate_on_two_processes(build, workshop, on_two_ranks, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "default_num_processes", 1)  # for export and evaluation

    def of_rank(rank: int):
        join_processes("cpu")
        finished = []
        for trainer_class in (TopoMAEPretrainer, TopoMAEFinetuner):
            trainer = build(trainer_class, iterations_per_epoch=1)
            trainer.run_training()
            trainer.perform_actual_validation()
            dist.barrier()
            finished.append((trainer.plain_network.state_dict(), trainer.logger.local_logger.my_fantastic_logging))
        return finished

    of_0, of_1 = on_two_ranks(of_rank)
    val_cases = json.loads((workshop.dataset / "splits_final.json").read_text())[0]["val"]
    assert len(val_cases) == 2
    for trainer_class, (weights_0, curves_0), (weights_1, curves_1) in zip(
        (TopoMAEPretrainer, TopoMAEFinetuner), of_0, of_1, strict=True
    ):
        assert all(torch.equal(weights_0[name], weights_1[name]) for name in weights_0)
        assert curves_0["train_losses"] == curves_1["train_losses"] and len(curves_0["train_losses"]) == 1
        fold = Path(workshop.results, f"{trainer_class.__name__}__nnUNetPlans__3d_fullres", "fold_0")
        checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
        assert checkpoint["current_epoch"] == 1 and checkpoint["logging"]["val_losses"] == curves_0["val_losses"]
        assert checkpoint["network_weights"].keys() == weights_0.keys()  # no prefix of DDP
        assert len(list(fold.glob("training_log_*.txt"))) == 1
        summary = json.loads((fold / "validation" / "summary.json").read_text())
        assert len(summary["metric_per_case"]) == len(val_cases)


def test_batch_norm_over_two_processes_is_batch_norm_over_their_batches(on_two_ranks):
    x = torch.randn(4, 3, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    sizes = [slice(0, 1), slice(1, 4)]  # unequal batches

    def of_rank(rank: int):
        join_processes("cpu")
        norm, mine = SyncBatchNormOnCPU(3), x[sizes[rank]].clone().requires_grad_()
        y = norm(mine)
        (y * weight[sizes[rank]]).sum().backward()
        return y.detach(), mine.grad, norm.running_mean, norm.running_var, norm.eval()(x).detach()

    results = on_two_ranks(of_rank)
    norm, whole = nn.BatchNorm3d(3), x.clone().requires_grad_()
    y = norm(whole)
    (y * weight).sum().backward()
    torch.testing.assert_close(torch.cat([result[0] for result in results]), y.detach())
    torch.testing.assert_close(torch.cat([result[1] for result in results]), whole.grad)
    for _, _, mean, variance, evaluated in results:
        torch.testing.assert_close(mean, norm.running_mean)
        torch.testing.assert_close(variance, norm.running_var)
        torch.testing.assert_close(evaluated, norm.eval()(x).detach())

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks.summary import NetworkSummary, summarise, summarise_finetuning, summarise_pretraining


def allocated_by(forward) -> int:
    """Bytes that the profiler sees allocated and not freed while `forward` runs and its result is held."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = forward()
    assert result is not None
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages())


def test_memory_of_finetuning_is_what_the_allocator_sees(beside_each):
    summary = summarise_finetuning(1, 3, *beside_each, dtype=torch.float32)
    network = HybridSegmentationNetwork(1, 3, *beside_each).eval()
    images = [torch.randn(batch_size, 1, 8, 24, 32) for batch_size in (1, 3)]
    allocated = [allocated_by(lambda image=image: network(image)) for image in images]

    assert summary.bytes_per_sample == pytest.approx((allocated[1] - allocated[0]) / 2, rel=0.1)


def test_dropout_on_a_gpu_stores_no_matrix(blueprint):
    """So that the estimate does not depend on it, though a CPU does store them."""
    size = replace(blueprint.partner.size, dropout=0.0)
    without = blueprint._replace(partner=replace(blueprint.partner, size=size))
    assert summarise_finetuning(1, 3, *blueprint) == summarise_finetuning(1, 3, *without)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_chain_of_products_in_closed_form(dtype):
    """Each keeps its input, and autocast a copy of each matrix."""
    summary = summarise(
        lambda: nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16)), lambda network, x: network(x), (10000, 64), dtype
    )
    matrices = 64 * 32 + 32 * 16
    assert summary.parameters == matrices + 32 + 16
    assert summary.multiply_adds == 10000 * matrices
    assert summary.bytes_per_sample == pytest.approx(dtype.itemsize * 10000 * (64 + 32), rel=0.01)
    assert summary.fixed_bytes == 16 * summary.parameters + (2 * matrices if dtype == torch.float16 else 0)


def test_parameters_and_multiply_adds_are_those_of_the_networks(beside_each):
    pretraining, finetuning = (
        CoPretrainingNetwork(2, *beside_each),
        HybridSegmentationNetwork(2, 3, *beside_each).eval(),
    )
    summary = summarise_finetuning(2, 3, *beside_each)
    with FlopCounterMode(display=False) as counter:
        finetuning(torch.zeros(1, 2, 8, 24, 32))

    assert summarise_pretraining(2, *beside_each).parameters == sum(p.numel() for p in pretraining.parameters())
    assert summary.parameters == sum(p.numel() for p in finetuning.parameters())
    assert summary.multiply_adds == counter.get_total_flops() // 2


def test_half_precision_and_masking_save_memory_and_work(blueprint):
    half = summarise_pretraining(1, *blueprint)
    full = summarise_pretraining(1, *blueprint, dtype=torch.float32)
    unmasked = summarise_pretraining(1, *blueprint, mask_ratio=0.0)

    assert half.bytes_per_sample < full.bytes_per_sample
    assert half.multiply_adds == full.multiply_adds < unmasked.multiply_adds


def test_largest_batch_is_the_last_that_fits():
    summary = NetworkSummary(parameters=10, multiply_adds=0, fixed_bytes=160, bytes_per_sample=100)

    assert summary.largest_batch(459) == 2
    assert summary.training_bytes(2) <= 459 < summary.training_bytes(3)
    assert summary.largest_batch(100) == 0

from dataclasses import replace

import pytest
import torch

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks.summary import NetworkSummary, summarise_finetuning, summarise_pretraining


def allocated_by(forward) -> int:
    """Bytes that the profiler sees allocated and not freed while `forward` runs and its result is held."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = forward()
    assert result is not None
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages())


def test_memory_of_finetuning_is_what_the_allocator_sees(minimal, geometry):
    summary = summarise_finetuning(1, 3, geometry, minimal, dtype=torch.float32)
    network = HybridSegmentationNetwork(1, 3, geometry, replace(minimal, dropout=0.0))
    images = [torch.randn(batch_size, 1, 8, 24, 32) for batch_size in (1, 3)]
    allocated = [allocated_by(lambda image=image: network(image)) for image in images]

    assert summary.bytes_per_sample == pytest.approx((allocated[1] - allocated[0]) / 2, rel=0.1)


def test_parameters_are_those_of_the_networks(minimal, geometry):
    pretraining = CoPretrainingNetwork(2, geometry, minimal)
    finetuning = HybridSegmentationNetwork(2, 3, geometry, minimal)

    assert summarise_pretraining(2, geometry, minimal).parameters == sum(p.numel() for p in pretraining.parameters())
    assert summarise_finetuning(2, 3, geometry, minimal).parameters == sum(p.numel() for p in finetuning.parameters())


def test_half_precision_and_masking_save_memory_and_work(minimal, geometry):
    half = summarise_pretraining(1, geometry, minimal)
    full = summarise_pretraining(1, geometry, minimal, dtype=torch.float32)
    unmasked = summarise_pretraining(1, geometry, minimal, mask_ratio=0.0)

    assert half.bytes_per_sample < full.bytes_per_sample
    assert half.multiply_adds == full.multiply_adds < unmasked.multiply_adds


def test_largest_batch_is_the_last_that_fits():
    summary = NetworkSummary(parameters=10, multiply_adds=0, fixed_bytes=160, bytes_per_sample=100)

    assert summary.largest_batch(459) == 2
    assert summary.training_bytes(2) <= 459 < summary.training_bytes(3)
    assert summary.largest_batch(100) == 0

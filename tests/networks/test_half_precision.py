"""What CUDA's mixed precision does to the networks, looked at where a CPU can: gradients under float16."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork

SCALE = 1024  # as GradScaler does it, lest small gradients become zero


@pytest.fixture(params=["pre-training", "fine-tuning"])
def network_and_loss(request, minimal, geometry) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    torch.manual_seed(0)
    preset, image = replace(minimal, dropout=0), torch.randn(2, 1, *geometry.patch_size)
    if request.param == "pre-training":
        network = CoPretrainingNetwork(1, geometry, preset)
        mask = torch.rand(2, geometry.num_tokens).argsort(dim=1) < round(0.75 * geometry.num_tokens)
        return network, lambda: sum(
            (branch.reconstruction.float() - image).square().mean() + branch.points.float().square().mean()
            for branch in network(image, mask)
        )
    network = HybridSegmentationNetwork(1, 3, geometry, preset)
    classes = torch.randint(3, (2, *geometry.patch_size))
    return network, lambda: nn.functional.cross_entropy(network(image)[0].float(), classes)


def test_gradients_are_those_of_float32(network_and_loss):
    network, loss = network_and_loss
    expected = gradient(network, loss())
    with torch.autocast("cpu", torch.float16):
        in_half_precision = loss()
    found = gradient(network, in_half_precision)

    assert found.isfinite().all()
    assert (found - expected).norm() < 0.1 * expected.norm()


def gradient(network: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    network.zero_grad()
    (SCALE * loss).backward()
    return torch.cat([p.grad.flatten() / SCALE for p in network.parameters() if p.grad is not None])

"""What CUDA's mixed precision does to the networks, looked at where a CPU can: gradients under float16."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from nnunet_topomae.losses.term import BRANCHES
from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.pretext.masking import draw_masks

SCALE = 1024  # as GradScaler does it, lest small gradients become zero


@pytest.fixture(params=["pre-training", "fine-tuning"])
def network_and_outputs(request, blueprint) -> tuple[nn.Module, Callable[[], list[torch.Tensor]]]:
    torch.manual_seed(0)
    geometry, partner = blueprint.geometry, blueprint.partner
    blueprint = blueprint._replace(partner=replace(partner, size=replace(partner.size, dropout=0)))
    image = torch.randn(2, 1, *geometry.patch_size)
    if request.param == "pre-training":
        network = CoPretrainingNetwork(1, *blueprint)
        masks = draw_masks(2, 2, geometry.num_tokens, 0.75, torch.Generator())
        return network, lambda: [tensor for branch in BRANCHES for tensor in network(image, masks, branch)]
    network = HybridSegmentationNetwork(1, 3, *blueprint)
    return network, lambda: network(image)


def test_gradients_are_those_of_float32(network_and_outputs):
    network, outputs = network_and_outputs
    expected = gradient(network, outputs())
    with torch.autocast("cpu", torch.float16):
        in_half_precision = outputs()
    found = gradient(network, in_half_precision)

    assert found.isfinite().all()
    assert (found - expected).norm() < 0.04 * expected.norm()


def gradient(network: nn.Module, outputs: list[torch.Tensor]) -> torch.Tensor:
    """Of the sum of the outputs' mean squares, by all parameters."""
    network.zero_grad()
    (SCALE * sum(output.float().square().mean() for output in outputs)).backward()
    return torch.cat([p.grad.flatten() / SCALE for p in network.parameters()])

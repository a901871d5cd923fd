"""nnU-Net's own network as the partner, beside nnU-Net's own way of building it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork, geometry_from_plan
from nnunet_topomae.networks.fusion import FUSIONS
from nnunet_topomae.networks.partners.plan import PlanPartner, nnunet_weights, scaled_before_norms
from nnunet_topomae.pretext.masking import draw_masks

SIZE = (8, 24, 32)


@pytest.fixture(params=["PlainConvUNet", "ResidualEncoderUNet"])
def plan(request, planned_network) -> PlanPartner:
    section = planned_network(request.param, [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]])
    return PlanPartner.of({"patch_size": SIZE, "architecture": section}, "tiny")


def without_epsilon(network: nn.Module) -> nn.Module:
    """So that a norm hides all of the size of what it gets."""
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.eps = 0
    return network


def test_computes_what_nnunets_network_does_from_the_same_weights(plan):
    ours, theirs = plan.build(1, 3, deep_supervision=True).eval(), plan.nnunets_network(1, 3, True).eval()
    theirs.load_state_dict(nnunet_weights(ours.state_dict()))
    image = torch.randn(1, 1, *SIZE)

    for output, expected in zip(ours(image), theirs(image), strict=True):
        torch.testing.assert_close(output, expected, rtol=0, atol=0)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_smaller_convolutions_before_norms_compute_the_same_and_turn_further(plan):
    network = without_epsilon(plan.build(1, 3, deep_supervision=True).double())
    for name, parameter in network.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)  # the last one of a residual block is 0 at first
    scaled = deepcopy(network)
    scaled.load_state_dict(scaled_before_norms(network.state_dict(), 1 / 3))
    image = torch.randn(1, 1, *SIZE, dtype=torch.float64)
    outputs = [one(image)[0] for one in (network, scaled)]
    torch.testing.assert_close(*outputs)

    for output in outputs:
        output.square().mean().backward()
    named = dict(scaled.named_parameters())
    convolutions = {name: p for name, p in network.named_parameters() if p.ndim == 5}
    changed = {name: p for name, p in convolutions.items() if not torch.equal(p, named[name])}
    assert set(convolutions) - set(changed) == {
        name for name in convolutions if "transpconvs" in name or "seg_layers" in name
    }
    for name, weight in changed.items():  # SGD: the gradient three times as large, the weight a third
        torch.testing.assert_close(named[name].grad, 3 * weight.grad)


class Alien(nn.Module):
    def __init__(self, **_) -> None:
        super().__init__()


def test_what_it_cannot_build_is_refused(plan, blueprint):
    with pytest.raises(ValueError, match="take partner = unetrpp"):
        PlanPartner(SIZE, f"{__name__}.Alien", {}).build(1, 3)
    with pytest.raises(ValueError, match="second axis .* set patch_size"):
        replace(plan, patch_size=(8, 20, 32)).build(1, 3)
    network = HybridSegmentationNetwork(1, 3, *blueprint._replace(partner=plan))
    with pytest.raises(ValueError, match="encoder.stages.*not in the checkpoint"):
        network.load_pretrained(CoPretrainingNetwork(1, *blueprint).state_dict())


@st.composite
def plans(draw) -> tuple[list[int], list[list[int]]]:
    """Patch and strides as nnU-Net's planners write them: 3 to 7 stages, halvings of an axis from any of them on."""
    halvings = draw(st.permutations([draw(st.integers(2, 6)), draw(st.integers(0, 3)), draw(st.integers(0, 3))]))
    stages = max(halvings)
    first = [draw(st.integers(0, stages - count)) for count in halvings]
    strides = [[1, 1, 1]] + [
        [2 if begin <= stage < begin + count else 1 for begin, count in zip(first, halvings, strict=True)]
        for stage in range(stages)
    ]
    return [max(4, 2 * 2**count) for count in halvings], strides


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans(), st.sampled_from(["PlainConvUNet", "ResidualEncoderUNet"]), st.sampled_from(sorted(FUSIONS)))
def test_any_plan_trains_in_both_phases(blueprint, planned_network, drawn, name, fusion):
    patch, strides = drawn
    geometry = geometry_from_plan(patch, strides)
    partner = PlanPartner.of({"patch_size": patch, "architecture": planned_network(name, strides)}, "tiny")
    blueprint = blueprint._replace(geometry=geometry, partner=partner)
    pretrained = CoPretrainingNetwork(1, *blueprint)
    masks = draw_masks(1, 1, geometry.num_tokens, 0.5, torch.Generator())
    assert list(pretrained(torch.randn(1, 1, *patch), masks).partner.reconstruction.shape[3:]) == patch

    hybrid = HybridSegmentationNetwork(1, 2, *blueprint, fusion=fusion)
    hybrid.load_pretrained(pretrained.state_dict())
    outputs = hybrid(torch.randn(1, 1, *patch))
    for logits, scales in zip(outputs, hybrid.deep_supervision_scales, strict=True):
        assert [*logits.shape[2:]] == [side * scale for side, scale in zip(patch, scales, strict=True)]
    sum(logits.square().mean() for logits in outputs).backward()
    assert all(parameter.grad is not None for parameter in hybrid.parameters())

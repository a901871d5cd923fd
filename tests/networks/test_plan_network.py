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
from nnunet_topomae.networks.checkpointing import with_checkpoints
from nnunet_topomae.networks.fusion import FUSIONS
from nnunet_topomae.networks.plan_network import PlanArchitecture, PlanNetwork, nnunet_weights, scaled_before_norms
from nnunet_topomae.networks.summary import summarise_finetuning, summarise_pretraining

SIZE = (8, 24, 32)


@pytest.fixture(params=["PlainConvUNet", "ResidualEncoderUNet"])
def plan(request, planned_network) -> PlanArchitecture:
    """A network of nnU-Net's for the patch of `geometry`."""
    section = planned_network(request.param, [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]])
    return PlanArchitecture.of({"architecture": section})


def masks(geometry) -> torch.Tensor:
    mask = torch.zeros(1, 1, geometry.num_tokens, dtype=torch.bool)
    mask[..., : geometry.num_tokens // 2] = True
    return mask


def without_epsilon(network: nn.Module) -> nn.Module:
    """So that a norm hides all of the size of what it gets."""
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.eps = 0
    return network


def test_computes_what_nnunets_network_does_from_the_same_weights(plan):
    ours, theirs = PlanNetwork(1, 3, SIZE, plan).eval(), plan.build(1, 3, deep_supervision=True).eval()
    theirs.load_state_dict(nnunet_weights(ours.state_dict()))
    image = torch.randn(1, 1, *SIZE)

    for output, expected in zip(ours(image), theirs(image), strict=True):
        torch.testing.assert_close(output, expected, rtol=0, atol=0)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_smaller_convolutions_before_norms_compute_the_same_and_turn_further(plan):
    network = without_epsilon(PlanNetwork(1, 3, SIZE, plan).double())
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


def test_says_where_its_features_and_its_outputs_lie(plan):
    network = PlanNetwork(2, 3, SIZE, plan)
    image = torch.zeros(1, 2, *SIZE)

    features = network.encoder(image)
    assert tuple(tuple(f.shape[2:]) for f in features) == network.feature_grids
    assert tuple(f.shape[1] for f in features) == network.feature_channels
    for output, scales in zip(network(image), network.deep_supervision_scales, strict=True):
        assert list(output.shape[2:]) == [side * scale for side, scale in zip(SIZE, scales, strict=True)]
    assert torch.equal(network.full_resolution_encoder()(image)[0], features[0])
    for key in network.keys_to_in_proj:
        assert network.get_submodule(key).weight.shape[1] == 2


def test_pretraining_trains_every_parameter_and_has_no_output_that_it_does_not_use(plan, geometry, minimal):
    network = CoPretrainingNetwork(1, geometry, minimal, architecture=plan)
    output = network(torch.randn(1, 1, *SIZE), masks(geometry))

    assert output.partner.reconstruction.shape == (1, 1, 1, *SIZE) and output.partner.points.shape == (1, 1, 9, 3)
    sum(value.square().sum() for branch in output for value in branch).backward()
    assert [name for name, parameter in network.partner.named_parameters() if parameter.grad is None] == []
    assert len(network.partner.decoder.seg_layers) == 1


@pytest.mark.parametrize("fusion", FUSIONS)
def test_pretrained_weights_fill_all_but_segmentation_layers_and_fusion(plan, geometry, minimal, fusion):
    pretrained = CoPretrainingNetwork(1, geometry, minimal, architecture=plan).eval()
    network = HybridSegmentationNetwork(1, 3, geometry, minimal, fusion=fusion, architecture=plan).eval()
    report = network.load_pretrained(pretrained.state_dict())

    assert all(name.startswith(("fusion.", "decoder.seg_layers.")) for name in report.new)
    assert not report.adapted and report.loaded
    image = torch.randn(1, 1, *SIZE)
    features = network.encoder(image)
    for ours, theirs in zip(features, pretrained.partner.encoder(image), strict=fusion != "vit_only"):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert [output.shape[0] for output in network(image)] == [1, 1, 1]


def test_channels_patch_and_labels_of_a_first_stage_are_adapted(plan, geometry, minimal):
    pretrained = CoPretrainingNetwork(1, geometry, minimal, architecture=plan).eval()
    larger = replace(geometry, patch_size=(16, 24, 32))
    network = HybridSegmentationNetwork(4, 3, larger, minimal, architecture=plan).eval()
    report = network.load_pretrained(pretrained.state_dict(), label_channels=2)
    image = torch.randn(1, 1, 16, 24, 32)
    cascaded = torch.cat([image, image, torch.randn(1, 2, 16, 24, 32)], dim=1)

    for ours, theirs in zip(network.encoder(cascaded), pretrained.partner.encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert all("input channels" in what for name, what in report.adapted.items() if name.startswith("encoder."))


def test_weights_of_unetrpp_are_refused_by_layer(plan, geometry, minimal):
    network = HybridSegmentationNetwork(1, 3, geometry, minimal, architecture=plan)
    with pytest.raises(ValueError, match="encoder.stages.*not in the checkpoint"):
        network.load_pretrained(CoPretrainingNetwork(1, geometry, minimal).state_dict())


def test_checkpointing_changes_no_gradient(plan, geometry, minimal):
    image, gradients = torch.randn(2, 1, *SIZE), []
    network = HybridSegmentationNetwork(1, 3, geometry, minimal, architecture=plan)
    for build in (lambda network: network, with_checkpoints):
        network.zero_grad()
        sum(output.square().mean() for output in build(network)(image)).backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
    assert any("_forward" in repr(vars(module).get("forward")) for module in network.encoder.modules())


def test_summaries_count_its_parameters(plan, geometry, minimal):
    pretraining = CoPretrainingNetwork(1, geometry, minimal, architecture=plan)
    finetuning = HybridSegmentationNetwork(1, 3, geometry, minimal, architecture=plan)
    for summary, network in (
        (summarise_pretraining(1, geometry, minimal, architecture=plan), pretraining),
        (summarise_finetuning(1, 3, geometry, minimal, architecture=plan), finetuning),
    ):
        assert summary.parameters == sum(p.numel() for p in network.parameters())
        assert summary.multiply_adds > 0 and summary.bytes_per_sample > 0


def test_compiles_into_one_graph(plan, geometry, minimal):
    network = HybridSegmentationNetwork(1, 3, geometry, replace(minimal, vit_depth=1), architecture=plan).eval()
    image = torch.randn(1, 1, *SIZE)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for output, expected in zip(compiled(image), network(image), strict=True):
        torch.testing.assert_close(output, expected)


def test_a_network_without_encoder_and_decoder_is_refused():
    alien = PlanArchitecture("torch.nn.Module", {}, ())
    with pytest.raises(ValueError, match="take partner = unetrpp"):
        PlanNetwork(1, 3, SIZE, replace(alien, class_name="tests.networks.test_plan_network.Alien"))


class Alien(torch.nn.Module):
    def __init__(self, **_) -> None:
        super().__init__()


def test_strides_that_do_not_divide_the_patch_are_refused(plan):
    with pytest.raises(ValueError, match="do not divide its patch"):
        PlanNetwork(1, 3, (8, 20, 32), plan)


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
def test_any_plan_trains_in_both_phases(minimal, planned_network, drawn, network, fusion):
    patch, strides = drawn
    geometry = geometry_from_plan(patch, strides)
    architecture = PlanArchitecture.of({"architecture": planned_network(network, strides)})
    pretrained = CoPretrainingNetwork(1, geometry, minimal, architecture=architecture)
    output = pretrained(torch.randn(1, 1, *patch), masks(geometry))
    assert list(output.partner.reconstruction.shape[3:]) == patch

    hybrid = HybridSegmentationNetwork(1, 2, geometry, minimal, fusion=fusion, architecture=architecture)
    hybrid.load_pretrained(pretrained.state_dict())
    outputs = hybrid(torch.randn(1, 1, *patch))
    for logits, scales in zip(outputs, hybrid.deep_supervision_scales, strict=True):
        assert [*logits.shape[2:]] == [side * scale for side, scale in zip(patch, scales, strict=True)]
    sum(logits.square().mean() for logits in outputs).backward()
    assert all(parameter.grad is not None for parameter in hybrid.parameters())

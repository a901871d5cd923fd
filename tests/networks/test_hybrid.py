from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks.fusion import FUSIONS


def test_sets_out_close_to_the_partner_and_with_a_gradient_for_the_vit(blueprint):
    network = HybridSegmentationNetwork(1, 3, *blueprint).eval()
    image = torch.randn(1, 1, 8, 24, 32)
    features = network.encoder(image)

    for fused, alone in zip(network.fusion(features, vit_features(network, image)), features, strict=True):
        assert (fused - alone).std() < 0.3 * alone.std()
    sum(output.square().mean() for output in network(image)).backward()
    assert all(parameter.grad.any() for parameter in network.vit.parameters())


def test_without_the_vit_the_partner_is_alone(beside_each):
    """A partner that is trained by itself, and loads as much of a pre-training as it has."""
    network = HybridSegmentationNetwork(1, 3, *beside_each, fusion="partner_only").eval()
    image = torch.randn(1, 1, 8, 24, 32)
    assert network.vit is None and network.parts()["vit"] == []
    for output, expected in zip(network(image), network.decoder(network.encoder(image)), strict=True):
        assert torch.equal(output, expected)
    report = network.load_pretrained(CoPretrainingNetwork(1, *beside_each).state_dict())
    assert {name.split(".")[0] for name in report.loaded} == {"encoder", "decoder"}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_learns(beside_each, fusion):
    network = HybridSegmentationNetwork(1, 3, *beside_each, fusion=fusion)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # in the first step, norms of zero keep residual branches out
        optimizer.zero_grad()
        sum(output.square().mean() for output in network(torch.randn(2, 1, 8, 24, 32))).backward()
        optimizer.step()

    assert {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_features_of_a_token_reach_unetrpp_where_its_voxels_are(blueprint):
    """Without attention a voxel changes one token; what the fusion adds must change in its place on every grid."""
    network = HybridSegmentationNetwork(1, 3, *blueprint._replace(vit=replace(blueprint.vit, depth=0))).eval()
    image = torch.randn(1, 1, 8, 24, 32)
    marked = image.clone()
    voxel = (6, 17, 3)
    marked[(0, 0, *voxel)] += 5
    features = network.encoder(image)

    before, after = (network.fusion(features, vit_features(network, x)) for x in (image, marked))
    assert torch.equal(before[0], after[0])  # full resolution
    for a, b in zip(before[1:], after[1:], strict=True):
        grid = a.shape[2:]
        peak = torch.unravel_index((a - b).abs().sum(dim=1).argmax(), grid)
        expected = [v * g // p for v, g, p in zip(voxel, grid, (8, 24, 32), strict=True)]
        token_span = [max(1, g // t) for g, t in zip(grid, blueprint.geometry.token_grid, strict=True)]
        for found, place, span in zip(peak, expected, token_span, strict=True):
            assert abs(found.item() - place) < span


def vit_features(network, image):
    return network.vit(image).transpose(1, 2).unflatten(2, network.geometry.token_grid)


def test_weights_do_not_depend_on_deep_supervision(blueprint):
    """nnU-Net predicts with a network built without deep supervision and loads the trained weights strictly."""
    trained = HybridSegmentationNetwork(1, 3, *blueprint).eval()
    predictor = HybridSegmentationNetwork(1, 3, *blueprint, deep_supervision=False).eval()
    predictor.load_state_dict(trained.state_dict())
    image = torch.randn(1, 1, 8, 24, 32)

    torch.testing.assert_close(predictor(image), trained(image)[0])
    trained.decoder.deep_supervision = False
    torch.testing.assert_close(trained(image), predictor(image))


def test_can_be_copied(beside_each):
    network = HybridSegmentationNetwork(1, 3, *beside_each).eval()
    image = torch.randn(1, 1, 8, 24, 32)
    assert torch.equal(deepcopy(network)(image)[0], network(image)[0])


def test_compiles_into_one_graph(beside_each):
    blueprint = beside_each._replace(vit=replace(beside_each.vit, depth=1))
    network = HybridSegmentationNetwork(1, 3, *blueprint).eval()
    image = torch.randn(1, 1, 8, 24, 32)
    compiled = torch.compile(network, fullgraph=True, backend="eager")

    for output, expected in zip(compiled(image), network(image), strict=True):
        torch.testing.assert_close(output, expected)


def test_unknown_fusion_is_refused(blueprint):
    with pytest.raises(ValueError, match="'sum': choose one of stages, partner_only"):
        HybridSegmentationNetwork(1, 3, *blueprint, fusion="sum")

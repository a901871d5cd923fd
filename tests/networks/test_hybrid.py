from dataclasses import replace

import pytest
import torch

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks.fusion import FUSIONS


@pytest.mark.parametrize("fusion", [name for name in FUSIONS if name not in ("vit_only", "partner_only")])
def test_sets_out_close_to_unetrpp_and_with_a_gradient_for_the_vit(minimal, geometry, fusion):
    network = HybridSegmentationNetwork(1, 3, geometry, minimal, fusion=fusion).eval()
    image = torch.randn(1, 1, 8, 24, 32)
    features = network.encoder(image)

    for fused, alone in zip(network.fusion(features, vit_features(network, image)), features, strict=True):
        assert (fused - alone).std() < 0.3 * alone.std()
    sum(output.square().mean() for output in network(image)).backward()
    assert all(parameter.grad.any() for parameter in network.vit.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_learns(minimal, geometry, fusion):
    network = HybridSegmentationNetwork(1, 3, geometry, minimal, fusion=fusion)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # in the first step, scales of zero keep the ViT out
        optimizer.zero_grad()
        sum(output.square().mean() for output in network(torch.randn(2, 1, 8, 24, 32))).backward()
        optimizer.step()

    assert {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()} == set()


@pytest.mark.parametrize("fusion", ["stages", "bottleneck"])
def test_features_of_a_token_reach_unetrpp_where_its_voxels_are(minimal, geometry, fusion):
    """Without attention a voxel changes one token; what the fusion adds must change in its place on every grid."""
    network = HybridSegmentationNetwork(1, 3, geometry, replace(minimal, vit_depth=0), fusion=fusion).eval()
    with torch.no_grad():
        for name, parameter in network.fusion.named_parameters():
            if name.startswith("scales") or name == "mix.weight":
                parameter.normal_()
    image = torch.randn(1, 1, 8, 24, 32)
    marked = image.clone()
    voxel = (6, 17, 3)
    marked[(0, 0, *voxel)] += 5
    features = network.encoder(image)

    before, after = (network.fusion(features, vit_features(network, x)) for x in (image, marked))
    changed_grids = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed_grids == [False] + ([True] * 4 if fusion == "stages" else [False] * 3 + [True])
    for a, b, changed in zip(before, after, changed_grids, strict=True):
        if changed:
            grid = a.shape[2:]
            peak = (a - b).abs().sum(dim=1).argmax().item()
            expected = [v * g // p for v, g, p in zip(voxel, grid, geometry.patch_size, strict=True)]
            token_span = [max(1, g // t) for g, t in zip(grid, geometry.token_grid, strict=True)]
            for found, place, span in zip(
                torch.unravel_index(torch.tensor(peak), grid), expected, token_span, strict=True
            ):
                assert abs(found.item() - place) < span


def vit_features(network, image):
    return network.vit(image).transpose(1, 2).unflatten(2, network.geometry.token_grid)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_pretrained_weights_fill_what_the_fusion_reads(minimal, geometry, fusion):
    pretrained = CoPretrainingNetwork(1, geometry, minimal)
    network = HybridSegmentationNetwork(1, 3, geometry, minimal, fusion=fusion)
    report = network.load_pretrained(pretrained.state_dict())

    parts = {name.split(".")[0] for name in report.loaded}
    assert parts == {"vit", "encoder", "decoder"} - ({"vit"} if fusion == "partner_only" else set())
    assert any(name.startswith("encoder.stem") for name in report.loaded) == (fusion != "vit_only")
    assert {name.split(".")[0] for name in report.new} <= {"fusion", "decoder"}


def test_weights_do_not_depend_on_deep_supervision(minimal, geometry):
    """nnU-Net predicts with a network built without deep supervision and loads the trained weights strictly."""
    trained = HybridSegmentationNetwork(1, 3, geometry, minimal).eval()
    predictor = HybridSegmentationNetwork(1, 3, geometry, minimal, deep_supervision=False).eval()
    predictor.load_state_dict(trained.state_dict())
    image = torch.randn(1, 1, 8, 24, 32)

    torch.testing.assert_close(predictor(image), trained(image)[0])
    trained.decoder.deep_supervision = False
    torch.testing.assert_close(trained(image), predictor(image))


def test_outputs_match_the_scales(minimal, geometry):
    network = HybridSegmentationNetwork(1, 3, geometry, minimal)

    assert network.deep_supervision_scales == [[1, 1, 1], [1, 1 / 2, 1], [1 / 2, 1 / 4, 1 / 2]]
    assert [tuple(output.shape) for output in network(torch.zeros(2, 1, 8, 24, 32))] == [
        (2, 3, 8, 24, 32),
        (2, 3, 8, 12, 32),
        (2, 3, 4, 6, 16),
    ]


def test_parts_are_where_the_keys_say(minimal, geometry):
    network = HybridSegmentationNetwork(2, 3, geometry, minimal)

    assert network.get_submodule(network.key_to_encoder) is network.encoder
    assert network.get_submodule(network.key_to_vit) is network.vit
    assert network.get_submodule(network.key_to_stem) is network.encoder.stem
    for key in network.keys_to_in_proj:
        assert network.get_submodule(key).weight.shape[1] == 2


def test_compiles_into_one_graph(minimal, geometry):
    network = HybridSegmentationNetwork(1, 3, geometry, replace(minimal, vit_depth=1)).eval()
    image = torch.randn(1, 1, 8, 24, 32)
    compiled = torch.compile(network, fullgraph=True, backend="eager")

    for output, expected in zip(compiled(image), network(image), strict=True):
        torch.testing.assert_close(output, expected)


def test_unknown_fusion_is_refused(minimal, geometry):
    choices = "stages, bottleneck, token_grid, cross_attention"
    with pytest.raises(ValueError, match=f"unknown fusion 'sum': choose one of {choices}"):
        HybridSegmentationNetwork(1, 3, geometry, minimal, fusion="sum")

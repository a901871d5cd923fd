import pytest
import torch

from nnunet_topomae.networks import HybridSegmentationNetwork
from nnunet_topomae.networks.ablation import ablated


@pytest.fixture
def network(blueprint):
    return HybridSegmentationNetwork(1, 3, *blueprint, deep_supervision=False).eval()


def test_the_mean_takes_the_place_of_every_token(network):
    image = torch.randn(2, 1, 8, 24, 32)
    mean = network.vit(image).mean(dim=1)
    with ablated(network, "vit_mean"):
        features = network.vit(image)
    assert features.std(dim=1).max() < 1e-6
    torch.testing.assert_close(features[:, 0], mean)


@pytest.mark.parametrize("name", ["vit_mean", "epa_identity"])
def test_an_ablation_changes_the_answer_and_ends(network, name):
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            if parameter_name.endswith("gamma"):  # attention starts at a scale of 1e-6
                parameter.fill_(1.0)
    image = torch.randn(1, 1, 8, 24, 32)
    before = network(image)
    with ablated(network, name):
        assert not torch.allclose(network(image), before, atol=1e-4)
    assert torch.equal(network(image), before)


def test_a_part_that_is_not_there_cannot_be_ablated(blueprint):
    network = HybridSegmentationNetwork(1, 3, *blueprint, fusion="partner_only")
    with pytest.raises(ValueError, match="no ViTEncoder"), ablated(network, "vit_mean"):
        pass

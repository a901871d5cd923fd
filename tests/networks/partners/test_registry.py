"""Every partner that the knob names, by one list of what is asked of it; checkpoints of version 0.2 still fit."""

from hashlib import sha256

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_topomae.config import PARTNERS, TopoMAEConfig
from nnunet_topomae.networks import PRESETS, CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks.partners import Partner, partner_class
from nnunet_topomae.planning.blueprint import Blueprint

PATCH = (16, 32, 32)


@pytest.fixture
def configuration(planned_network) -> dict:
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    return {"patch_size": list(PATCH), "architecture": planned_network("PlainConvUNet", strides)}


@pytest.mark.parametrize("name", PARTNERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_partner_says_all_that_is_asked_of_it(configuration, name, preset):
    partner = partner_class(name).of(configuration, preset)
    assert isinstance(partner, Partner) and partner.title and len(partner.citation) == 2
    assert all(rate > 0 for rate in partner.learning_rates(preset))
    with FakeTensorMode():
        network = partner.build(2, 3, deep_supervision=True)
        features, outputs = network.encoder(torch.zeros(1, 2, *PATCH)), network(torch.zeros(1, 2, *PATCH))
    assert [tuple(f.shape[2:]) for f in features][-len(partner.stage_grids) :] == partner.stage_grids
    assert tuple(tuple(f.shape[1:]) for f in features) == tuple(
        (channels, *grid) for channels, grid in zip(network.feature_channels, network.feature_grids, strict=True)
    )
    for output, scales in zip(outputs, network.deep_supervision_scales, strict=True):
        assert list(output.shape[2:]) == [side * scale for side, scale in zip(PATCH, scales, strict=True)]
    for key in (network.key_to_encoder, network.key_to_stem):
        network.get_submodule(key)
    assert all(network.get_parameter(f"{key}.weight").shape[1] == 2 for key in network.keys_to_in_proj)
    names = [name for name, _ in network.named_parameters()]
    assert any(name.startswith(partner.not_exported) for name in names)
    assert any(isinstance(module, partner.blocks) for module in network.modules())


@pytest.mark.parametrize(
    ("partner", "pretraining", "finetuning"),
    [("plan", "279a7e10", "eda3125d"), ("unetrpp", "acd3e95d", "99badb33")],
)
def test_weights_have_the_names_and_shapes_of_version_0_2(configuration, partner, pretraining, finetuning):
    blueprint = Blueprint.of(configuration, TopoMAEConfig(partner=partner, preset="tiny"))
    networks = CoPretrainingNetwork(1, *blueprint), HybridSegmentationNetwork(1, 3, *blueprint)
    for network, expected in zip(networks, (pretraining, finetuning), strict=True):
        names = "\n".join(f"{name} {tuple(weight.shape)}" for name, weight in network.state_dict().items())
        assert sha256(names.encode()).hexdigest().startswith(expected), names

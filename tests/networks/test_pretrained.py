from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks.foreign import as_pretraining
from nnunet_topomae.networks.pretrained import repeat_channels, resample

LARGER = (16, 24, 64)
COARSER = (16, 48, 64), ((2, 4, 2), (2, 2, 2), (2, 2, 2), (1, 3, 2))


def pretrain(blueprint) -> CoPretrainingNetwork:
    """On one channel, with weights as different as after training."""
    torch.manual_seed(0)
    network = CoPretrainingNetwork(1, *blueprint).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.fixture
def pretrained(blueprint):
    return pretrain(blueprint)


def test_same_geometry_is_copied(beside_each):
    pretrained = pretrain(beside_each)
    network = HybridSegmentationNetwork(1, 3, *beside_each).eval()
    report = network.load_pretrained(pretrained.state_dict())
    image = torch.randn(1, 1, 8, 24, 32)

    torch.testing.assert_close(network.vit(image), pretrained.vit.encoder(image))
    for ours, theirs in zip(network.encoder(image), pretrained.partner.encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert report.adapted == {}
    assert {name.split(".")[0] for name in report.new} == {"fusion", "decoder"}
    assert "partner.position_head.1.weight" in report.skipped
    filled = [parameter for name, parameter in network.named_parameters() if name in report.loaded]
    parts = network.parts()
    assert {*parts["vit"], *parts["partner"]} == set(filled)
    assert set(parts["new"]) == set(network.parameters()) - set(filled)


@pytest.mark.parametrize(("image_channels", "label_channels"), [(3, 0), (1, 2), (2, 1)])
def test_more_channels_answer_alike_to_a_repeated_image_whatever_a_first_stage_says(
    beside_each, image_channels, label_channels
):
    """Labels of a cascade's previous stage are not taken for an image."""
    pretrained = pretrain(beside_each)
    network = HybridSegmentationNetwork(image_channels + label_channels, 2, *beside_each).eval()
    report = network.load_pretrained(pretrained.state_dict(), label_channels)
    image = torch.randn(1, 1, 8, 24, 32)
    labels = torch.randint(0, 2, (1, label_channels, 8, 24, 32)).float()
    cascaded = torch.cat([image.expand(-1, image_channels, -1, -1, -1), labels], dim=1)

    torch.testing.assert_close(network.vit(cascaded), pretrained.vit.encoder(image), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(network.encoder(cascaded), pretrained.partner.encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    changes = [f"1 input channels to {image_channels}"] if image_channels > 1 else []
    changes += [f"{label_channels} label channels added, zero"] if label_channels else []
    assert {f"{key}.weight" for key in network.keys_to_in_proj} <= set(report.adapted)
    assert set(report.adapted.values()) == {", ".join(changes)}


@pytest.mark.parametrize("label_channels", [0, 2])
def test_of_a_cascade_only_the_image_is_taken(blueprint, label_channels):
    """Weights of a second stage with one image channel and two of labels, for another one and for a plain network."""
    cascade = HybridSegmentationNetwork(1 + 2, 2, *blueprint)
    network = HybridSegmentationNetwork(1 + label_channels, 2, *blueprint)
    weights = as_pretraining(cascade.state_dict(), network.pretrained_names)
    report = network.load_pretrained(weights, label_channels, image_channels=1)
    for stem in (f"{key}.weight" for key in network.keys_to_in_proj):
        ours, theirs = network.state_dict()[stem], cascade.state_dict()[stem]
        assert torch.equal(ours[:, :1], theirs[:, :1]) and not ours[:, 1:].any()
        assert report.adapted[stem].startswith("2 label channels left out")


def test_labels_are_told_from_an_image_of_as_many_channels(blueprint):
    """Pre-training on two channels says nothing about an image of one channel and a label."""
    pretrained = CoPretrainingNetwork(2, *blueprint)
    network = HybridSegmentationNetwork(2, 2, *blueprint)
    report = network.load_pretrained(pretrained.state_dict(), label_channels=1)

    assert report.adapted["encoder.stem.0.weight"] == "2 input channels to 1, 1 label channels added, zero"
    assert not network.encoder.stem[0].weight[:, 1].any()


def test_larger_patch_keeps_the_features_of_its_tokens(pretrained, elsewhere):
    """Tokens of the same size have the same embedding, whatever the patch; grids of UNETR++ are resampled."""
    network = HybridSegmentationNetwork(1, 2, *elsewhere(LARGER)).eval()
    report = network.load_pretrained(pretrained.state_dict())

    torch.testing.assert_close(network.vit.token_embedding.weight, pretrained.vit.encoder.token_embedding.weight)
    name = "encoder.stages.2.0.position_embedding"
    torch.testing.assert_close(
        network.get_parameter(name),
        F.interpolate(pretrained.get_parameter(f"partner.{name}")[None], size=(4, 3, 16), mode="trilinear")[0],
    )
    assert report.adapted[name] == "grid (2, 3, 8) to (4, 3, 16)"
    assert network(torch.randn(1, 1, 16, 24, 64))[0].isfinite().all()


def test_coarser_strides_answer_alike_to_a_constant(pretrained, elsewhere):
    """Kernels of twice the size read a constant image as the original ones did."""
    network = HybridSegmentationNetwork(1, 2, *elsewhere(*COARSER)).eval()
    network.load_pretrained(pretrained.state_dict())
    ours = network.vit.token_embedding.weight, network.encoder.stem[0].weight
    theirs = pretrained.vit.encoder.token_embedding.weight, pretrained.partner.encoder.stem[0].weight

    for kernel, original in zip(ours, theirs, strict=True):
        assert kernel.shape != original.shape
        torch.testing.assert_close(kernel.sum(dim=(2, 3, 4)), original.sum(dim=(2, 3, 4)), rtol=1e-4, atol=1e-4)


def test_a_projection_of_constant_tokens_survives_resampling(pretrained, elsewhere):
    network = HybridSegmentationNetwork(1, 2, *elsewhere(LARGER)).eval()
    network.load_pretrained(pretrained.state_dict())
    ours = network.encoder.stages[0][0].attention.key_projection
    theirs = pretrained.partner.encoder.stages[0][0].attention.key_projection

    torch.testing.assert_close(
        ours(torch.ones(16 * 12 * 64, 1)), theirs(torch.ones(8 * 12 * 32, 1)), rtol=1e-3, atol=1e-3
    )


def test_other_widths_are_an_error_by_layer_and_change_nothing(pretrained, blueprint):
    wider = replace(blueprint.partner, size=replace(blueprint.partner.size, features_per_stage=(4, 8, 16, 32)))
    network = HybridSegmentationNetwork(1, 2, *blueprint._replace(partner=wider))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError) as error:
        network.load_pretrained(pretrained.state_dict())

    assert "encoder.downsamplings.1.0.weight: (8, 8, 2, 2, 2) in the checkpoint, (16, 8, 2, 2, 2)" in str(error.value)
    assert "encoder.stages.2.0.gamma: (8,) in the checkpoint, (16,) in this network" in str(error.value)
    assert "vit." not in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (1, r"vit.encoder.blocks.1.attn.qkv.weight: in the checkpoint, but not in this network"),
        (3, r"vit.blocks.2.attn.qkv.weight: not in the checkpoint \(as vit.encoder.blocks.2.attn.qkv.weight\)"),
    ],
)
def test_other_depths_are_an_error(pretrained, blueprint, depth, message):
    network = HybridSegmentationNetwork(1, 2, *blueprint._replace(vit=replace(blueprint.vit, depth=depth)))
    with pytest.raises(ValueError, match=message):
        network.load_pretrained(pretrained.state_dict())


def test_weights_under_other_names_are_refused(blueprint):
    network = HybridSegmentationNetwork(1, 2, *blueprint)
    with pytest.raises(ValueError, match="downsamplings.0.0.weight: not in the checkpoint"):
        network.load_pretrained(network.state_dict())


@pytest.mark.parametrize(("old", "new"), [(1, 4), (2, 3), (4, 1), (3, 2)])
def test_repeated_channels_keep_the_response_to_a_gray_image(old, new):
    weight = torch.randn(5, old, 3, 3, 3)

    adapted = repeat_channels(weight, new)
    assert adapted.shape == (5, new, 3, 3, 3)
    torch.testing.assert_close(adapted.sum(dim=1), weight.sum(dim=1))


def test_resampling_keeps_a_ramp():
    """Grid points are cells: a function linear in space stays so away from the border."""
    ramp = ((torch.arange(6) + 0.5) / 6).reshape(6, 1, 1).expand(1, 6, 2, 2)
    finer = resample(ramp, (12, 2, 2), keep_sum=False)

    torch.testing.assert_close(finer[0, 1:-1, 0, 0], ((torch.arange(12) + 0.5) / 12)[1:-1])
    torch.testing.assert_close(resample(ramp, (12, 2, 2), keep_sum=True), finer / 2)

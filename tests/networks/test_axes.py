from itertools import permutations

import pytest
import torch

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks.axes import axes_order, channel_order, reorder_axes
from nnunet_topomae.networks.foreign import as_pretraining


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_the_encoders_answer_to_a_permuted_image_as_before(blueprint, elsewhere, axes):
    torch.manual_seed(0)
    pretrained = CoPretrainingNetwork(1, *blueprint).eval()
    with torch.no_grad():
        for parameter in pretrained.parameters():  # as different as after training
            parameter.add_(0.1 * torch.randn_like(parameter))
    patch, *strides = (
        tuple(size[axis] for axis in axes) for size in (blueprint.geometry.patch_size, *blueprint.partner.strides)
    )
    network = HybridSegmentationNetwork(1, 2, *elsewhere(patch, tuple(strides))).eval()
    report = network.load_pretrained(reorder_axes(pretrained.state_dict(), axes))
    assert not report.adapted  # shapes follow the axes, nothing is resampled

    image = torch.randn(1, 1, *blueprint.geometry.patch_size)
    order = (0, 1, *(2 + axis for axis in axes))
    grid = blueprint.geometry.token_grid
    with torch.no_grad():
        theirs = pretrained.vit.encoder(image).transpose(1, 2).unflatten(2, grid).permute(order)
        theirs = theirs[:, channel_order(theirs.shape[1], axes)]
        ours = network.vit(image.permute(order)).transpose(1, 2).unflatten(2, network.geometry.token_grid)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(network.encoder(image.permute(order)), pretrained.partner.encoder(image), strict=True):
            torch.testing.assert_close(ours, theirs.permute(order), rtol=1e-3, atol=1e-3)


def test_the_order_is_between_those_of_two_plans():
    image = torch.randn(2, 3, 4)
    before, now = (2, 0, 1), (1, 0, 2)  # transpose_forward of each
    axes = axes_order(before, now)
    assert torch.equal(image.permute(before).permute(axes), image.permute(now))
    assert axes_order(before, before) == (0, 1, 2)


def test_a_fused_network_answers_as_before(blueprint, elsewhere):
    """Of a fine-tuned one fusion and decoder come along, too."""
    torch.manual_seed(0)
    axes = (2, 0, 1)
    before = HybridSegmentationNetwork(1, 2, *blueprint).eval()
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    patch, *strides = (
        tuple(size[axis] for axis in axes) for size in (blueprint.geometry.patch_size, *blueprint.partner.strides)
    )
    now = HybridSegmentationNetwork(1, 2, *elsewhere(patch, tuple(strides))).eval()
    now.load_pretrained(reorder_axes(as_pretraining(before.state_dict(), now.pretrained_names), axes))
    of_classes = {name: weight for name, weight in before.state_dict().items() if ".seg_layers." in name}
    now.load_state_dict(of_classes, strict=False)

    image, order = torch.randn(1, 1, *blueprint.geometry.patch_size), (0, 1, *(2 + axis for axis in axes))
    with torch.no_grad():
        finest = [network(image) for network, image in ((before, image), (now, image.permute(order)))]
    theirs, ours = (maps[0] if isinstance(maps, list) else maps for maps in finest)
    torch.testing.assert_close(ours, theirs.permute(order), rtol=1e-3, atol=1e-3)


def test_heads_that_write_in_the_order_of_the_axes_begin_anew(blueprint):
    weights = CoPretrainingNetwork(1, *blueprint).state_dict()
    left = weights.keys() - reorder_axes(weights, (2, 0, 1)).keys()
    assert {name.split(".")[1] for name in left} == {"decoder", "position_head"} and len(left) > 4
    assert not any(name.startswith("partner.decoder") for name in left)
    assert reorder_axes(weights, (0, 1, 2)).keys() == weights.keys()

from itertools import permutations

import pytest
import torch

from nnunet_topomae.networks import CoPretrainingNetwork, Geometry, HybridSegmentationNetwork
from nnunet_topomae.networks.axes import axes_order, channel_order, reorder_axes


def permuted(geometry: Geometry, axes: tuple[int, ...]) -> Geometry:
    strides = (geometry.stem_stride, *geometry.stage_strides)
    stem, *stages = (tuple(stride[axis] for axis in axes) for stride in strides)
    return Geometry(tuple(geometry.patch_size[axis] for axis in axes), stem, tuple(stages))


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_the_encoders_answer_to_a_permuted_image_as_before(minimal, geometry, axes, layer_scale):
    torch.manual_seed(0)
    pretrained = CoPretrainingNetwork(1, geometry, minimal, layer_scale=layer_scale).eval()
    with torch.no_grad():
        for parameter in pretrained.parameters():  # as different as after training
            parameter.add_(0.1 * torch.randn_like(parameter))
    network = HybridSegmentationNetwork(1, 2, permuted(geometry, axes), minimal, layer_scale=layer_scale).eval()
    report = network.load_pretrained(reorder_axes(pretrained.state_dict(), axes))
    assert not report.adapted  # shapes follow the axes, nothing is resampled

    image = torch.randn(1, 1, *geometry.patch_size)
    order = (0, 1, *(2 + axis for axis in axes))
    with torch.no_grad():
        theirs = pretrained.vit.encoder(image).transpose(1, 2).unflatten(2, geometry.token_grid).permute(order)
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

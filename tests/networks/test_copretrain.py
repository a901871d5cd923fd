import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from torch._dynamo.testing import CompileCounter

from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.networks.geometry import strides_from_plan
from nnunet_topomae.networks.tokens import expand_mask, patchify
from nnunet_topomae.pretext.masking import draw_masks

GENERATOR = torch.default_generator


def test_answers_have_the_shape_of_image_and_nine_points_and_every_parameter_learns(beside_each):
    network = CoPretrainingNetwork(2, *beside_each)
    output = network(torch.randn(2, 2, 8, 24, 32), draw_masks(2, 3, 48, 0.75, GENERATOR))

    for branch, views in ((output.vit, 3), (output.partner, 1)):
        assert branch.reconstruction.shape == (2, views, 2, 8, 24, 32)
        assert branch.points.shape == (2, views, 9, 3)
    sum(tensor.square().sum() for tensor in flat(output)).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert len(network.partner.decoder.seg_layers) == 1


def test_the_vit_answers_for_each_view_as_if_it_were_alone(blueprint):
    network = CoPretrainingNetwork(1, *blueprint).eval()
    image, masks = torch.randn(2, 1, 8, 24, 32), draw_masks(2, 3, 48, 0.75, GENERATOR)
    together = network(image, masks).vit
    for view in range(3):
        alone = network(image, masks[:, view : view + 1]).vit
        torch.testing.assert_close(together.reconstruction[:, view], alone.reconstruction[:, 0])
        torch.testing.assert_close(together.points[:, view], alone.points[:, 0])


@pytest.mark.parametrize("branch", ["vit", "partner"])
def test_a_network_by_itself_says_what_completes_the_image(blueprint, branch):
    network = CoPretrainingNetwork(2, *blueprint).eval()
    image, masks = torch.randn(2, 2, 8, 24, 32), draw_masks(2, 3, 48, 0.75, GENERATOR)
    answer, whole = network(image, masks, branch), getattr(network(image, masks), branch)
    assert torch.equal(answer.points, whole.points)
    for view in range(whole.reconstruction.shape[1]):
        tokens = patchify(whole.reconstruction[:, view], (4, 8, 4))
        assert torch.equal(tokens[masks[:, view]].reshape(answer.tokens[:, view].shape), answer.tokens[:, view])
        visible = ~masks[:, view]
        assert torch.equal(tokens[visible], patchify(image, (4, 8, 4))[visible])


def test_the_partner_is_asked_for_what_the_first_mask_hides(blueprint):
    network = CoPretrainingNetwork(1, *blueprint).eval()
    image, masks = torch.randn(2, 1, 8, 24, 32), draw_masks(2, 3, 48, 0.75, GENERATOR)
    hidden = expand_mask(masks[:, 0], (2, 3, 8), (4, 8, 4))
    volume = network.partner(image * ~hidden).reconstruction[:, 0]
    expected = patchify(volume, (4, 8, 4))[masks[:, 0]]
    torch.testing.assert_close(network(image, masks, "partner").tokens.flatten(0, 2), expected)


def test_masked_voxels_do_not_leak(blueprint):
    """Whatever stands under the mask, also NaN, the answers of both networks stay the same; not so elsewhere."""
    network = CoPretrainingNetwork(1, *blueprint).eval()
    image, mask = torch.randn(1, 1, 8, 24, 32), torch.zeros(1, 1, 48, dtype=torch.bool)
    changed = image.clone()
    for i, j, k in [(0, 0, 0), (0, 2, 7), (1, 0, 5), (1, 2, 3)]:
        mask[0, 0, (i * 3 + j) * 8 + k] = True
        changed[..., 4 * i : 4 * i + 4, 8 * j : 8 * j + 8, 4 * k : 4 * k + 4] = torch.nan
    for answer, same in zip(flat(network(image, mask)), flat(network(changed, mask)), strict=True):
        assert torch.equal(answer, same)

    changed = image.clone()
    changed[0, 0, 7, 7, 7] += 1  # a visible neighbour
    for answer, other in zip(flat(network(image, mask)), flat(network(changed, mask)), strict=True):
        assert not torch.equal(answer, other)


def flat(output):
    return [tensor for branch in output for tensor in branch]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    patch_size=st.tuples(st.integers(5, 40), st.integers(24, 48), st.integers(24, 64)),
    spacing=st.tuples(st.sampled_from([1, 2.5, 6]), st.just(1), st.sampled_from([0.7, 1])),
    channels=st.integers(1, 4),
)
def test_any_plan_trains(elsewhere, patch_size, spacing, channels):
    """Both phases build, run and send a gradient to every parameter, as DDP demands."""
    _, strides, _, patch_size, _ = get_pool_and_conv_props(spacing, patch_size, 4, 999999)
    blueprint = elsewhere(*strides_from_plan(patch_size, strides))
    image = torch.randn(2, channels, *blueprint.geometry.patch_size)

    network = CoPretrainingNetwork(channels, *blueprint)
    output = network(image, draw_masks(2, 2, blueprint.geometry.num_tokens, 0.75, GENERATOR))
    sum(tensor.square().mean() for tensor in flat(output)).backward()
    assert {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()} == set()

    network = HybridSegmentationNetwork(channels, 2, *blueprint)
    outputs = network(image)
    sum(output.square().mean() for output in outputs).backward()
    assert {name for name, p in network.named_parameters() if p.grad is None} == set()
    for output, scale in zip(outputs, network.deep_supervision_scales, strict=True):
        assert output.shape[2:] == tuple(round(a * b) for a, b in zip(patch_size, scale, strict=True))


def test_compiles_once_for_all_masks(blueprint):
    """A graph for each network; another mask compiles nothing anew."""
    network = CoPretrainingNetwork(1, *blueprint).eval()
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter)
    for _ in range(2):
        image, mask = torch.randn(2, 1, 8, 24, 32), draw_masks(2, 2, 48, 0.75, GENERATOR)
        for branch in ("vit", "partner"):
            torch.testing.assert_close(compiled(image, mask, branch), network(image, mask, branch))
        assert counter.frame_count == 2

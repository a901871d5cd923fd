import math
from dataclasses import fields, replace

import pytest
import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.pretraining import CURVES, TERMS, PretrainingLoss
from nnunet_topomae.networks.copretrain import BranchOutput
from nnunet_topomae.networks.geometry import geometry_from_plan
from nnunet_topomae.networks.tokens import expand_mask, patchify
from nnunet_topomae.pretext.masking import draw_masks

GEOMETRY = geometry_from_plan((16, 16, 24), [[1, 1, 1], [2, 2, 2], [2, 2, 2]])
IMAGE = torch.randn(2, 1, 16, 16, 24, generator=torch.Generator().manual_seed(0))
POINTS = torch.rand(2, 9, 3, generator=torch.Generator().manual_seed(1))
MASKS = torch.zeros(2, 2, GEOMETRY.num_tokens, dtype=torch.bool)
MASKS[:, 0, ::2] = True
MASKS[:, 1, 1::2] = True
WITHOUT_TOPOLOGY = TopoMAEConfig(weight_position=0.1, weight_consistency_points=0.1)
WITH_TOPOLOGY = replace(WITHOUT_TOPOLOGY, weight_topology=100)
HIDDEN = expand_mask(MASKS, GEOMETRY.token_grid, GEOMETRY.token_size)


def hidden_of(volumes: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Of volumes [B, C, D, H, W], what each mask hides: [B, V, K, voxels of a token]."""
    tokens = patchify(volumes, GEOMETRY.token_size)[:, None].expand(-1, masks.shape[1], -1, -1)
    return tokens[masks].reshape(*masks.shape[:2], -1, tokens.shape[-1])


def output(offset: float = 0.0) -> dict[str, BranchOutput]:
    """Both networks are right but for `offset` in every voxel and coordinate; UNETR++ is wrong the other way round.

    The ViT answers for two views, UNETR++ for one.
    """

    def answer(offset: float, views: int) -> BranchOutput:
        points = (POINTS[:, None] + offset).repeat(1, views, 1, 1)
        return BranchOutput(hidden_of(IMAGE + offset, MASKS[:, :views]).requires_grad_(), points.requires_grad_())

    return {"vit": answer(offset, 2), "partner": answer(-offset, 1)}


def losses_of(config: TopoMAEConfig, answers: dict[str, BranchOutput]) -> list[tuple[dict, torch.Tensor]]:
    """Terms and weighted sum of each network."""
    loss = PretrainingLoss(config, GEOMETRY)
    target = loss.target(IMAGE, POINTS, MASKS)
    outputs = {branch: loss.answered(branch, answer, target) for branch, answer in answers.items()}
    values = [loss(branch, outputs, target) for branch in outputs]
    return [(value, loss.total(value)) for value in values]


def terms_of(config: TopoMAEConfig, answers: dict[str, BranchOutput]) -> dict:
    return {name: value for terms, _ in losses_of(config, answers) for name, value in terms.items()}


def test_every_weight_of_the_config_is_that_of_a_term():
    weights = {knob.name for knob in fields(TopoMAEConfig) if knob.name.startswith("weight_")} - {"weight_decay"}
    assert weights == {f"weight_{term.name}" for term in TERMS}
    assert {"reconstruction_vit", "position_partner", "consistency_points", "topology_vit"} < set(CURVES)


def test_right_answers_cost_nothing():
    for terms, total in losses_of(WITH_TOPOLOGY, output()):
        assert total.item() == pytest.approx(0, abs=1e-6)
        assert set(terms) < set(CURVES)
    assert set(terms_of(WITH_TOPOLOGY, output())) == set(CURVES)


def test_each_term_is_its_formula():
    terms = terms_of(WITHOUT_TOPOLOGY, output(0.5))
    assert terms["reconstruction_vit"].item() == pytest.approx(0.25)
    assert terms["position_partner"].item() == pytest.approx(0.25)
    assert terms["consistency_points"].item() == pytest.approx(1)
    assert terms["consistency_reconstruction"].item() == pytest.approx(1)


def test_of_the_vit_alone_its_own_terms_are_left():
    config, answers = WITHOUT_TOPOLOGY, output(0.5)
    alone = terms_of(config, {"vit": answers["vit"]})
    assert alone == {name: value for name, value in terms_of(config, answers).items() if name.endswith("_vit")}
    assert {"reconstruction_vit", "position_vit"} <= alone.keys()


def in_volumes(vit: torch.Tensor, partner: torch.Tensor) -> list[torch.Tensor]:
    """Reconstruction of both networks and their consistency by the formulas, of whole volumes [B, V, C, D, H, W]."""

    def masked_mean(values: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return (values * hidden).sum() / hidden.sum()

    image, first = IMAGE[:, None], HIDDEN[:, :1]
    errors = [((volume[:, :1] - image).square() * first).sum(dim=(1, 2, 3, 4, 5)) for volume in (vit, partner)]
    vit_is_worse = (errors[0] > errors[1]).reshape(-1, 1, 1, 1, 1, 1)
    pulled = torch.where(vit_is_worse, vit[:, :1], vit[:, :1].detach())
    pulled_partner = torch.where(vit_is_worse, partner.detach(), partner)
    return [
        masked_mean((vit - image).square(), HIDDEN),
        masked_mean((partner - image).square(), first),
        masked_mean((pulled - pulled_partner).square(), first),
    ]


def test_values_and_gradients_are_those_of_the_formulas_over_volumes():
    generator = torch.Generator().manual_seed(2)
    vit = (IMAGE[:, None] + torch.randn(2, 2, *IMAGE.shape[1:], generator=generator)).requires_grad_()
    scale = torch.tensor([0.5, 2]).reshape(2, 1, 1, 1, 1, 1)  # in crop 0 the partner is the better one
    partner = (IMAGE[:, None] + scale * torch.randn(2, 1, *IMAGE.shape[1:], generator=generator)).requires_grad_()
    expected = in_volumes(vit, partner)
    expected_gradients = torch.autograd.grad(sum(expected), (vit, partner))

    def answer(volumes: torch.Tensor) -> BranchOutput:
        views = range(volumes.shape[1])
        tokens = torch.cat([hidden_of(volumes[:, view], MASKS[:, view : view + 1]) for view in views], dim=1)
        return BranchOutput(tokens, POINTS[:, None].expand(-1, len(views), -1, -1))

    config = TopoMAEConfig()
    config = replace(config, weight_reconstruction=1, weight_consistency_reconstruction=1)
    answers = {"vit": answer(vit), "partner": answer(partner)}
    losses = losses_of(config, answers)
    terms = terms_of(config, answers)
    names = ("reconstruction_vit", "reconstruction_partner", "consistency_reconstruction")
    torch.testing.assert_close([terms[name] for name in names], expected)
    gradients = torch.autograd.grad(sum(total for _, total in losses), (vit, partner))
    torch.testing.assert_close(gradients, expected_gradients)


BOOKKEEPING = set(
    "to _to_copy clone reshape view _unsafe_view _reshape_alias unflatten flatten permute as_strided expand unsqueeze "
    "select slice detach alias empty_like resize_ result_type zeros_like zero_ mean".split()
)  # of the profiler's events those that touch no voxel, or leave it to an event inside


def test_a_step_of_the_vit_passes_six_times_over_its_volumes_at_most():
    """In half precision as on a GPU, forward and backward, in units of views · voxels of the crops."""
    loss = PretrainingLoss(WITHOUT_TOPOLOGY, GEOMETRY)
    masks = draw_masks(2, 8, GEOMETRY.num_tokens, 0.75, torch.Generator().manual_seed(0))
    tokens = hidden_of(IMAGE, masks).half().requires_grad_()
    points = torch.zeros(2, 8, 9, 3, dtype=torch.half, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        target = loss.target(IMAGE, POINTS, masks)
        loss.total(loss("vit", {"vit": loss.answered("vit", BranchOutput(tokens, points), target)}, target)).backward()
    voxels = 0
    for event in profiler.events():
        within = event.cpu_parent.name if event.cpu_parent else ""
        if event.name.startswith("aten::") and event.name[6:] not in BOOKKEEPING and event.name != within:
            voxels += max((math.prod(shape) for shape in event.input_shapes if shape), default=0)
    assert 1 < voxels / (8 * IMAGE.numel()) <= 6


def test_every_view_is_asked_for_what_its_own_mask_hid():
    answers = output()
    only_second = answers["vit"].tokens.detach().clone()
    only_second[:, 1] += 1
    wrong = answers | {"vit": answers["vit"]._replace(tokens=only_second)}
    assert terms_of(WITHOUT_TOPOLOGY, wrong)["reconstruction_vit"].item() == pytest.approx(0.5)


def test_the_total_is_the_weighted_sum():
    weights = {
        "weight_reconstruction": 2.0,
        "weight_topology": 0.0,
        "weight_position": 3.0,
        "weight_consistency_points": 5.0,
        "weight_consistency_reconstruction": 7.0,
    }
    for _, total in losses_of(TopoMAEConfig(**weights), output(0.5)):
        assert total.item() == pytest.approx(0.25 * 2 + 0.25 * 3 + 5 + 7)


def test_without_weight_topology_is_not_computed():
    terms = terms_of(WITHOUT_TOPOLOGY, output(0.5))
    assert not [name for name in terms if name.startswith("topology")]


def test_topology_looks_at_the_image_with_what_the_first_mask_hides():
    answers, loss = output(0.5), PretrainingLoss(WITH_TOPOLOGY, GEOMETRY)
    volumes = IMAGE + 0.5 * HIDDEN[:, 0]
    expected = loss.topology.loss(volumes, IMAGE)
    assert terms_of(WITH_TOPOLOGY, answers)["topology_vit"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_every_answer_is_pulled_by_the_totals():
    answers = output(0.5)
    for _, total in losses_of(WITH_TOPOLOGY, answers):
        total.backward()
    assert all(tensor.grad.abs().sum() > 0 for answer in answers.values() for tensor in answer)


def test_a_network_leaves_the_other_as_it_is():
    answers = output(0.5)
    losses_of(WITHOUT_TOPOLOGY, answers)[0][1].backward()  # the ViT's
    assert answers["vit"].tokens.grad is not None and answers["partner"].tokens.grad is None

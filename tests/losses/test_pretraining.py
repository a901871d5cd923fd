from dataclasses import fields

import pytest
import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.pretraining import CURVES, TERMS, PretrainingLoss
from nnunet_topomae.networks.copretrain import BranchOutput, CoPretrainingOutput
from nnunet_topomae.networks.geometry import geometry_from_plan
from nnunet_topomae.networks.tokens import expand_mask

GEOMETRY = geometry_from_plan((16, 16, 24), [[1, 1, 1], [2, 2, 2], [2, 2, 2]])
IMAGE = torch.randn(2, 1, 16, 16, 24, generator=torch.Generator().manual_seed(0))
POINTS = torch.rand(2, 9, 3, generator=torch.Generator().manual_seed(1))
MASKS = torch.zeros(2, 2, GEOMETRY.num_tokens, dtype=torch.bool)
MASKS[:, 0, ::2] = True
MASKS[:, 1, 1::2] = True
WITH_TOPOLOGY = TopoMAEConfig(weight_topology=100)
HIDDEN = expand_mask(MASKS, GEOMETRY.token_grid, GEOMETRY.token_size)


def output(offset: float = 0.0) -> CoPretrainingOutput:
    """Both networks are right but for `offset` in every voxel and coordinate; UNETR++ is wrong the other way round.

    The ViT answers for two views, UNETR++ for one.
    """

    def views_of(answer: torch.Tensor, views: int) -> torch.Tensor:
        return answer[:, None].repeat(1, views, *[1] * (answer.ndim - 1)).requires_grad_()

    return CoPretrainingOutput(
        BranchOutput(views_of(IMAGE + offset, 2), views_of(POINTS + offset, 2)),
        BranchOutput(views_of(IMAGE - offset, 1), views_of(POINTS - offset, 1)),
    )


def terms_of(config: TopoMAEConfig, answer: CoPretrainingOutput) -> tuple[dict, torch.Tensor]:
    loss = PretrainingLoss(config, GEOMETRY)
    values = loss(answer._asdict(), loss.target(IMAGE, POINTS, MASKS, loss.submit_target(IMAGE)))
    return values, loss.total(values)


def test_every_weight_of_the_config_is_that_of_a_term():
    weights = {knob.name for knob in fields(TopoMAEConfig) if knob.name.startswith("weight_")} - {"weight_decay"}
    assert weights == {f"weight_{term.name}" for term in TERMS}
    assert {"reconstruction_vit", "position_partner", "consistency_points", "topology_vit"} < set(CURVES)


def test_right_answers_cost_nothing():
    terms, total = terms_of(WITH_TOPOLOGY, output())
    assert tuple(terms) == CURVES
    assert total.item() == pytest.approx(0, abs=1e-6)


def test_each_term_is_its_formula():
    terms, _ = terms_of(TopoMAEConfig(weight_topology=0), output(0.5))
    assert terms["reconstruction_vit"].item() == pytest.approx(0.25)
    assert terms["position_partner"].item() == pytest.approx(0.25)
    assert terms["consistency_points"].item() == pytest.approx(1)
    assert terms["consistency_reconstruction"].item() == pytest.approx(1)


def test_of_the_vit_alone_its_own_terms_are_left():
    config, answer = TopoMAEConfig(weight_topology=0), output(0.5)
    both, _ = terms_of(config, answer)
    loss = PretrainingLoss(config, GEOMETRY)
    alone = loss({"vit": answer.vit}, loss.target(IMAGE, POINTS, MASKS))
    assert {"reconstruction_vit", "position_vit"} <= alone.keys()
    assert alone == {name: value for name, value in both.items() if name.endswith("_vit")}


def test_every_view_is_asked_for_what_its_own_mask_hid():
    answer = output()
    only_second = answer.vit.reconstruction.detach().clone()
    only_second[:, 1] += HIDDEN[:, 1]
    wrong = answer._replace(vit=answer.vit._replace(reconstruction=only_second))
    assert terms_of(TopoMAEConfig(weight_topology=0), wrong)[0]["reconstruction_vit"].item() == pytest.approx(0.5)


def test_the_total_is_the_weighted_sum():
    weights = {
        "weight_reconstruction": 2.0,
        "weight_topology": 0.0,
        "weight_position": 3.0,
        "weight_consistency_points": 5.0,
        "weight_consistency_reconstruction": 7.0,
    }
    _, total = terms_of(TopoMAEConfig(**weights), output(0.5))
    assert total.item() == pytest.approx(0.25 * 2 * 2 + 0.25 * 2 * 3 + 5 + 7)


def test_without_weight_topology_is_not_computed():
    terms, _ = terms_of(TopoMAEConfig(weight_topology=0), output(0.5))
    assert not [name for name in terms if name.startswith("topology")]


def test_topology_looks_at_completed_volumes():
    """A reconstruction that is wrong in visible voxels alone is right where it was asked."""
    answer = output()
    wrong = (IMAGE[:, None] + 9 * ~HIDDEN).requires_grad_()
    terms, _ = terms_of(WITH_TOPOLOGY, answer._replace(vit=answer.vit._replace(reconstruction=wrong)))
    assert terms["topology_vit"].item() == pytest.approx(0, abs=1e-6)


def test_every_answer_is_pulled_by_the_total():
    answer = output(0.5)
    terms_of(WITH_TOPOLOGY, answer)[1].backward()
    assert all(tensor.grad.abs().sum() > 0 for branch in answer for tensor in branch)

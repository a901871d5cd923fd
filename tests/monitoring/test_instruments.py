import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.pretraining import PretrainingLoss
from nnunet_topomae.monitoring.instruments import (
    HIDDEN_SHARES,
    POINT_RATIOS,
    PRETRAINING_INSTRUMENTS,
    PULLS,
    PretrainingInstruments,
    cosines,
    is_dead,
    label_share,
    pull,
    token_std,
)
from nnunet_topomae.networks import CoPretrainingNetwork, HybridSegmentationNetwork
from nnunet_topomae.planning.blueprint import Blueprint
from nnunet_topomae.pretext.masking import draw_masks

PLAN = {"patch_size": (16, 16, 24), "architecture": {"arch_kwargs": {"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}}}
CONFIG = TopoMAEConfig(partner="unetrpp", preset="tiny", weight_topology=100, weight_position=0.1)
BLUEPRINT = Blueprint.of(PLAN, CONFIG)
GEOMETRY = BLUEPRINT.geometry
LOSS = PretrainingLoss(CONFIG, GEOMETRY)


def test_tokens_that_are_all_alike_have_no_deviation():
    assert token_std(torch.randn(2, 1, 8).expand(-1, 50, -1)) < 1e-6
    assert token_std(torch.randn(2, 5000, 8)) == pytest.approx(1, rel=0.02)
    assert is_dead(0.02) and not is_dead(0.5)


class Oracle(nn.Module):
    """Answers with the truth, off by a share of it."""

    def __init__(self, network: CoPretrainingNetwork, image: torch.Tensor, points: torch.Tensor, share: float) -> None:
        super().__init__()
        self.vit, self.partner, self.network = network.vit, network.partner, network
        self.image, self.points, self.share = image, points, share

    def forward(self, image: torch.Tensor, masks: torch.Tensor, branch: str | None = None):
        if branch is not None:
            return self.network(image, masks, branch)
        rows = (self.image[:, None] == image).flatten(2).all(dim=2).float().argmax(dim=0)
        output = self.network(image, masks)
        middle = self.points.mean(dim=0)
        volume = (1 - self.share) * image[:, None]
        points = (middle + (1 - self.share) * (self.points[rows] - middle))[:, None]
        rights = {
            name: answer._replace(reconstruction=volume + 0 * answer.reconstruction, points=points + 0 * answer.points)
            for name, answer in output._asdict().items()
        }
        return output._replace(**rights)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_errors_stand_beside_those_of_knowing_nothing(share):
    """Off by all of it is to answer zero, and the mean of the points; off by nothing is no error."""
    image, points = torch.randn(4, 1, 16, 16, 24), torch.rand(4, 9, 3)
    masks = draw_masks(4, 1, GEOMETRY.num_tokens, 0.75, torch.Generator().manual_seed(0))
    network = CoPretrainingNetwork(1, *BLUEPRINT).eval()
    instruments = PretrainingInstruments(image, points, torch.zeros(4, 3, dtype=torch.bool), masks, LOSS, batch_size=2)
    readings = instruments.read(Oracle(network, image, points, share), torch.device("cpu"))

    assert set(readings) == set(PRETRAINING_INSTRUMENTS)
    for name in ("vit", "partner"):
        assert readings[f"error_over_harmonic_{name}"] == pytest.approx(
            share * readings["error_over_harmonic_zero"], abs=1e-6
        )
        assert readings[f"points_over_constant_{name}"] == pytest.approx(share, abs=1e-6)
    assert 0.3 < readings["vit_token_std"] < 1.5


def readings_at(points: torch.Tensor, **knobs: float) -> dict[str, float]:
    """Of an untrained network on noise at these places."""
    torch.manual_seed(0)
    masks = draw_masks(2, 1, GEOMETRY.num_tokens, 0.75, torch.Generator().manual_seed(0))
    loss = PretrainingLoss(replace(CONFIG, **knobs), GEOMETRY)
    padded = torch.zeros(2, 3, dtype=torch.bool)
    instruments = PretrainingInstruments(torch.randn(2, 1, 16, 16, 24), points, padded, masks, loss, 2)
    return instruments.read(CoPretrainingNetwork(1, *BLUEPRINT).eval(), torch.device("cpu"))


def test_what_no_loss_asks_for_is_not_judged():
    readings = readings_at(torch.rand(2, 9, 3), weight_position=0, weight_topology=0)
    assert set(readings) == set(PRETRAINING_INSTRUMENTS) - {*POINT_RATIOS, *HIDDEN_SHARES, *PULLS}


@pytest.mark.parametrize("name", PULLS)
def test_a_term_pulls_as_many_times_as_strongly_as_its_weight_is_larger(name):
    term, points = name.split("_")[0], torch.rand(2, 9, 3)
    weak, strong = (readings_at(points, **{f"weight_{term}": weight}) for weight in (1, 3))
    assert strong[name] == pytest.approx(3 * weak[name], rel=1e-4) and weak[name] > 0


def test_a_pull_is_not_lost_in_half_precision():
    weight = torch.ones(1, requires_grad=True)
    term = ((weight.half() * 2**-13).float() * 2**-13).sum()
    assert pull(term, [weight], scale=1) == 0 and pull(term, [weight], scale=2**16) == 2**-26


def test_where_all_crops_lie_at_one_place_a_constant_is_no_yardstick():
    readings = readings_at(torch.rand(1, 9, 3).expand(2, -1, -1))
    assert math.isnan(readings["points_over_constant_vit"]) and readings["error_over_harmonic_vit"] > 0


def test_the_best_guess_of_points_knows_what_padding_shows():
    """Two volumes fit into the patch along the first axis and lie in its middle; of the others nothing is seen."""
    places = torch.tensor([[0.0, 1, 1], [0, 3, 3], [4, 5, 5], [6, 7, 7]])[:, None].expand(-1, 9, -1)
    padded = torch.zeros(4, 3, dtype=torch.bool)
    padded[:2, 0] = True
    masks = draw_masks(4, 1, GEOMETRY.num_tokens, 0.75, torch.Generator().manual_seed(0))
    instruments = PretrainingInstruments(torch.randn(4, 1, 16, 16, 24), places, padded, masks, LOSS, batch_size=2)
    assert instruments.constant_error == pytest.approx((2 * 1.0 / 4 + 5 + 5) / 3)


@pytest.mark.parametrize("has_regions", [False, True])
def test_label_share_counts_the_foreground_that_changes(has_regions):
    torch.manual_seed(0)
    network = HybridSegmentationNetwork(1, 3, *BLUEPRINT, deep_supervision=False).eval()
    image = torch.randn(1, 1, 16, 16, 24)
    with torch.no_grad():
        for projection in network.fusion.projections:
            projection.weight.mul_(100)
    assert label_share(network, image, has_regions) > 0.05
    with torch.no_grad():
        for projection in network.fusion.projections:
            projection.weight.zero_()
    assert label_share(network, image, has_regions) == 0


def test_cosine_of_a_part_is_that_of_its_weights_as_one_vector():
    parts = {"cosine_vit": [torch.tensor([1.0, 0.0]), torch.tensor([[1.0]])]}
    now = {"cosine_vit": [torch.tensor([1.0, 0.0]), torch.tensor([[-1.0]])]}
    assert cosines(parts, parts)["cosine_vit"] == pytest.approx(1)
    assert cosines(now, parts)["cosine_vit"] == pytest.approx(0, abs=1e-6)
    many = {"vit": [torch.full([20_000_000], 0.02)]}
    assert cosines(many, many)["vit"] == pytest.approx(1, abs=1e-9)

import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn

from nnunet_topomae.losses.segmentation import SegmentationLoss
from nnunet_topomae.topology import TopologicalLoss

SHAPE = (9, 9, 9)
BLOCK, SPECK = (slice(1, 4),) * 3, (slice(6, 8),) * 3
CLASSES = LabelManager({"background": 0, "organ": 1}, None)
WITH_IGNORE = LabelManager({"background": 0, "organ": 1, "ignore": 2}, None)
REGIONS = LabelManager({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
REGIONS_WITH_IGNORE = LabelManager({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])


class Nothing(nn.Module):
    """In the place of nnU-Net's loss."""

    def forward(self, output, target):
        return torch.zeros(())


def loss_of(labels: LabelManager, weight: float = 1.0, place: float = 0.0) -> SegmentationLoss:
    loss = SegmentationLoss(Nothing(), TopologicalLoss(place=place), labels)
    loss.topology_weight = weight
    return loss


def volume(**values: float) -> torch.Tensor:
    """[1, 1, *SHAPE], with a value in the block, one in the speck and 0 elsewhere."""
    volume = torch.zeros(1, 1, *SHAPE)
    volume[(..., *BLOCK)], volume[(..., *SPECK)] = values.get("block", 0), values.get("speck", 0)
    return volume


def logits(probability: torch.Tensor) -> torch.Tensor:
    """Of background and organ."""
    return torch.cat([1 - probability, probability], dim=1).log()


def test_what_the_label_lacks_costs_the_square_of_its_persistence_over_four():
    """A speck of probability 0.8 is a component that lives from 0.2 to 1: W2² to the diagonal is 0.8² / 2."""
    for speck in (0.0, 0.5, 0.8):
        loss = loss_of(CLASSES, weight=3)(logits(volume(block=1, speck=speck)), volume(block=1))
        assert loss.item() == pytest.approx(3 * speck**2 / 4, abs=1e-6)


def test_the_other_way_round_it_is_the_missing_tunnel_that_costs():
    ring, disc = torch.zeros(1, 1, *SHAPE), torch.zeros(1, 1, *SHAPE)
    disc[..., 4, 2:7, 2:7] = ring[..., 4, 2:7, 2:7] = 1
    ring[..., 4, 4, 4] = 0
    assert loss_of(CLASSES)(logits(disc), ring).item() == pytest.approx(1 / 4, abs=1e-6)


def test_descent_lowers_the_peak_of_what_the_label_lacks():
    probability = volume(block=0.98, speck=0.8) + 0.01 * torch.rand(1, 1, *SHAPE, generator=torch.manual_seed(0))
    output = logits(probability).requires_grad_()
    loss_of(CLASSES)(output, volume(block=1)).backward()
    gradient = output.grad[0, 1][SPECK]
    assert gradient.argmax() == probability[0, 0][SPECK].argmax() and gradient.max() > 0.01


@pytest.mark.parametrize(("place", "cost"), [(0, 0), (1, 1 / 2)])
def test_with_a_place_a_component_elsewhere_is_another_one(place, cost):
    label, elsewhere = volume(block=1, speck=1), volume(block=1) + volume(speck=1).flip(2)
    assert loss_of(CLASSES, place=place)(logits(elsewhere), label).item() == pytest.approx(cost, abs=1e-2)


def test_a_loop_where_the_label_has_it_costs_no_more_for_its_size():
    """Though the voxel that closes it may be any of the label's."""
    ring = torch.zeros(1, 1, *SHAPE)
    ring[..., 4, 1:8, 1:8] = 1
    ring[..., 4, 2:7, 2:7] = 0
    unsure = 0.1 + 0.8 * ring - 0.05 * torch.rand(1, 1, *SHAPE, generator=torch.manual_seed(0))
    blind, with_place = (loss_of(CLASSES, place=place)(logits(unsure), ring).item() for place in (0, 1))
    assert with_place == pytest.approx(blind, abs=1e-3)


def test_full_resolution_alone_is_looked_at():
    right, wrong, target = logits(volume(block=1)), torch.randn(1, 2, 4, 4, 4), volume(block=1)
    assert loss_of(CLASSES)([right, wrong], [target, target[..., ::2, ::2, ::2]]).item() == pytest.approx(0, abs=1e-6)


def test_with_no_weight_it_is_nnunets_loss():
    loss = SegmentationLoss(nn.MSELoss(), TopologicalLoss(), CLASSES)
    output, target = torch.randn(1, 2, *SHAPE), torch.randn(1, 2, *SHAPE)
    assert torch.equal(loss(output, target), nn.functional.mse_loss(output, target))
    assert loss.topology_terms == []


def test_what_is_to_be_ignored_counts_for_nothing():
    output = logits(volume(block=1, speck=0.8))
    assert loss_of(WITH_IGNORE)(output, volume(block=1)).item() == pytest.approx(0.16, abs=1e-6)
    assert loss_of(WITH_IGNORE)(output, volume(block=1, speck=2)).item() == pytest.approx(0, abs=1e-6)


def test_regions_overlap_and_have_a_mean():
    """The whole is right, the core has a speck too many."""
    whole, core = volume(block=1, speck=1), volume(block=1)
    output = torch.cat([whole, core + volume(speck=0.8)], dim=1).logit(eps=1e-6)
    target = torch.cat([whole, core], dim=1)
    assert loss_of(REGIONS)(output, target).item() == pytest.approx(0.16 / 2, abs=1e-4)
    ignored = torch.cat([target, volume(speck=1)], dim=1)
    assert loss_of(REGIONS_WITH_IGNORE)(output, ignored).item() == pytest.approx(0, abs=1e-4)

import pytest
import torch

from nnunet_topomae.monitoring.shape import BettiNumbersOfLevels, hidden_share
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.topology import TopologicalLoss

GEOMETRY = Geometry((16, 16, 16), (4, 4, 4))  # tokens as small as their four points: nothing is low-passed


def test_a_second_blob_is_one_component_too_many_at_the_levels_that_it_reaches():
    ramp = torch.linspace(0, 1, 16**3).reshape(1, 1, 16, 16, 16)  # above each level one slab
    betti = BettiNumbersOfLevels(ramp, GEOMETRY)
    assert betti.error(ramp) == 0
    with_blob = ramp.clone()
    with_blob[..., 2, 2, 2] = 0.8
    assert betti.error(with_blob) == pytest.approx(2 / 3)  # 0.8 reaches 50 and 70 % of the voxels, not 90 %


def test_the_share_of_hidden_voxels_is_what_of_the_cost_would_change_with_them():
    """Two wells of the truth, each too shallow by 0.5 and 1 in the reconstruction: 0.25 and 1 of a cost of 1.25."""
    image = torch.full((1, 1, 8, 8, 8), 10.0)
    image[..., 2, 2, 2], image[..., 5, 5, 5] = 0, 2
    completed = image.clone()
    completed[..., 2, 2, 2], completed[..., 5, 5, 5] = 0.5, 3
    hidden = torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool)
    hidden[..., 2, 2, 2] = True
    loss = TopologicalLoss()
    assert hidden_share(loss, completed, loss.diagrams(image), hidden) == pytest.approx(0.25 / 1.25, rel=1e-5)
    assert hidden_share(loss, completed, loss.diagrams(image), ~hidden) == pytest.approx(1 / 1.25, rel=1e-5)
    per_voxel = TopologicalLoss(normalisation="voxels")
    assert hidden_share(per_voxel, completed, loss.diagrams(image), hidden) == pytest.approx(0.25 / 1.25, rel=1e-5)


def test_classes_that_nothing_answers_are_no_share_of_what_is_hidden():
    """A well that the reconstruction lacks goes to the diagonal, and no voxel is told."""
    image = torch.full((1, 1, 8, 8, 8), 10.0)
    image[..., 2, 2, 2], image[..., 5, 5, 5] = 0, 2
    completed = image.clone()
    completed[..., 5, 5, 5] = 10
    everything, loss = torch.ones(1, 1, 8, 8, 8, dtype=torch.bool), TopologicalLoss()
    assert hidden_share(loss, completed, loss.diagrams(image), everything) == pytest.approx(0, abs=1e-6)


def test_a_voxel_of_several_classes_counts_for_each_by_itself():
    """Six wells meet in one voxel, where the truth is flat: each costs what its depth says, and all is hidden."""
    completed = torch.ones(1, 1, 3, 3, 3)
    for axis in range(3):
        for side in (0, 2):
            completed[(0, 0, *(side if other == axis else 1 for other in range(3)))] = 0
    completed[0, 0, 1, 1, 1] = 0.5
    everything, loss = torch.ones(1, 1, 3, 3, 3, dtype=torch.bool), TopologicalLoss()
    share = hidden_share(loss, completed, loss.diagrams(torch.zeros(1, 1, 3, 3, 3)), everything)
    assert share == pytest.approx(1)

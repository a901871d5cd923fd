import pytest
import torch

from nnunet_topomae.losses.position import point_distance, position_loss


def test_squared_error_is_averaged_over_points_and_axes():
    target = torch.rand(2, 9, 3)
    points = target.clone()
    points[0, 0, 0] += 3
    assert position_loss(points, target).item() == pytest.approx(9 / (2 * 9 * 3), rel=1e-5)


def test_distance_is_euclidean_in_the_unit_given():
    target = torch.zeros(2, 9, 3)
    points = target.clone()
    points[1, :, 0], points[1, :, 2] = 0.3, 0.4
    assert point_distance(points, target, torch.tensor([[10.0, 10, 10], [10, 10, 20]])).tolist() == pytest.approx(
        [0, (3**2 + 8**2) ** 0.5]
    )

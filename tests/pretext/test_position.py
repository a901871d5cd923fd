import pytest
import torch

from nnunet_topomae.pretext.position import LENGTH, compose, crop_at, from_centre, in_volume, nine_points


def test_a_crop_of_the_whole_volume_spans_the_unit_cube():
    points = nine_points(crop_at((0, 0, 0)), (4, 6, 8), (4, 6, 8))
    assert points[0].tolist() == [0.5, 0.5, 0.5]
    assert points[1].tolist() == [0, 0, 0] and points[8].tolist() == [1, 1, 1]
    assert points[2].tolist() == [0, 0, 1] and points[5].tolist() == [1, 0, 0]  # last axis fastest


def test_a_crop_may_reach_outside():
    points = nine_points(crop_at((-2, 0, 5)), (4, 4, 5), (4, 8, 10))
    assert points[1].tolist() == [-0.5, 0, 0.5] and points[8].tolist() == [0.5, 0.5, 1]


def test_transforms_compose_from_the_output_back_to_the_volume():
    flip = (torch.diag(torch.tensor([-1.0, 1, 1])).double(), torch.tensor([3.0, 0, 0]).double())
    crop = (torch.eye(3).double(), torch.tensor([1.0, 0, 0]).double())
    # The output's voxel 0 is voxel 1 of the flipped crop, hence voxel 2 of the crop at 10: voxel 12 of the volume.
    chain = compose(compose(crop_at((10, 0, 0)), *flip), *crop)
    assert (chain @ torch.tensor([0.0, 0, 0, 1]).double())[0] == 12


def test_from_the_centre_a_crop_in_the_middle_is_at_one_place_whatever_the_extent_of_its_volume():
    spacing = torch.tensor([2.0, 1.0, 1.0])
    shapes = torch.tensor([[8, 8, 8], [12, 10, 20]])
    points = torch.stack([nine_points(crop_at(((shape - 4) // 2).tolist()), (4, 4, 4), shape) for shape in shapes])
    places = from_centre(points, shapes, spacing)
    torch.testing.assert_close(places[0], places[1])
    assert (LENGTH * places[0, 0]).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert (LENGTH * places[0, -1]).tolist() == pytest.approx([4, 2, 2])  # two voxels from the centre, in mm
    torch.testing.assert_close(in_volume(places, shapes, spacing), points)

import numpy as np

from nnunet_topomae.data.placement import RandomPlacement, draw_padding


class OneCase:
    """A dataset of one volume of 4×10×6 voxels whose only foreground voxel is at (1, 7, 2)."""

    identifiers = ["case"]

    def load_case(self, identifier: str):
        image, labels = np.zeros((1, 4, 10, 6), np.float32), np.zeros((1, 4, 10, 6), np.int16)
        image[0, 1, 7, 2], labels[0, 1, 7, 2] = 5, 1
        return image, labels, None, {"class_locations": {1: np.array([[0, 1, 7, 2]]), 2: []}, "spacing": (1, 1, 1)}


def test_padding_fills_the_patch_and_every_place_comes_up():
    np.random.seed(0)
    drawn = {tuple(draw_padding((4, 10, 6), (6, 8, 7))) for _ in range(200)}
    assert drawn == {((a, 2 - a), (0, 0), (c, 1 - c)) for a in range(3) for c in range(2)}


def test_labels_and_their_locations_move_with_the_image():
    np.random.seed(1)
    data = RandomPlacement(OneCase(), (8, 8, 8))
    places = set()
    for _ in range(20):
        image, labels, previous, properties = data.load_case("case")
        assert image.shape == labels.shape == (1, 8, 10, 8) and previous is None
        (voxel,) = properties["class_locations"][1].tolist()
        assert image[tuple(voxel)] == 5 and labels[tuple(voxel)] == 1 and image.sum() == 5
        assert (labels == -1).sum() == labels.size - 4 * 10 * 6  # nnU-Net's mark of what is not there
        assert properties["class_locations"][2] == [] and properties["spacing"] == (1, 1, 1)
        places.add(tuple(voxel))
    assert len(places) > 5


def test_a_cascades_previous_segmentation_moves_too():
    np.random.seed(2)
    data = OneCase()
    image, labels, _, properties = data.load_case("case")
    data.load_case = lambda identifier: (image, labels, labels[0], properties)  # nnU-Net's has no axis of channels
    _, moved, previous, _ = RandomPlacement(data, (8, 8, 8)).load_case("case")
    assert np.array_equal(previous, moved[0])


def test_a_large_volume_is_handed_through():
    data = OneCase()
    case = data.load_case("case")
    data.load_case = lambda identifier: case
    assert RandomPlacement(data, (4, 8, 6)).load_case("case") is not None
    assert RandomPlacement(data, (4, 8, 6)).load_case("case")[0] is case[0]

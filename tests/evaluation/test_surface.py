from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_topomae.evaluation.surface import SurfaceDistances, surface_voxels, surfels

# of surface-distance 0.1
pytestmark = pytest.mark.filterwarnings("ignore:Please import .* from the `scipy.ndimage` namespace:DeprecationWarning")
SPACINGS = [(1.0, 1.0, 1.0), (2.5, 0.8, 0.8), (3.0, 0.7, 1.9)]


def box(shape, corner, size) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


def between(a: np.ndarray, b: np.ndarray, spacing, surface=surface_voxels) -> SurfaceDistances:
    return SurfaceDistances.between(surface(a, spacing), surface(b, spacing))


def speckled(seed: int, shape=(14, 20, 18)) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes that overlap, with stray voxels, some of them at the border of the image."""
    rng = np.random.default_rng(seed)
    sides = np.array(shape)
    a, b = (box(shape, sides // 4 + shift, sides // 2) for shift in (0, 1))
    return a ^ (rng.random(shape) < 0.02), b ^ (rng.random(shape) < 0.02)


@pytest.mark.parametrize("spacing", [*SPACINGS, (1.0, 1.0), (2.5, 0.8)])
def test_surface_dice_is_that_of_surface_distance(spacing):
    surface_distance = pytest.importorskip("surface_distance")
    for seed in range(3):
        a, b = speckled(seed, (14, 20, 18)[: len(spacing)])
        theirs = surface_distance.compute_surface_distances(b, a, spacing)
        ours = between(a, b, spacing, surfels)
        assert ours.areas_a.sum() == pytest.approx(theirs["surfel_areas_pred"].sum())
        for tolerance in (0.0, 1.0, 2.0, 4.0):
            expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
            assert ours.share_within(tolerance) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_are_those_of_simpleitk(spacing):
    for seed in range(3):
        a, b = speckled(seed)
        from_a, from_b = distances_of_simpleitk(a, b, spacing), distances_of_simpleitk(b, a, spacing)
        ours = between(a, b, spacing)
        assert ours.hausdorff() == pytest.approx(max(from_a.max(), from_b.max()), rel=1e-5)
        assert ours.hausdorff(95) == pytest.approx(max(np.percentile(from_a, 95), np.percentile(from_b, 95)), rel=1e-5)
        both = np.concatenate([from_a, from_b])
        assert ours.pooled_percentile(95) == pytest.approx(np.percentile(both, 95), rel=1e-5)
        assert ours.mean() == pytest.approx(both.mean(), rel=1e-5)


def distances_of_simpleitk(a: np.ndarray, b: np.ndarray, spacing) -> np.ndarray:
    """From each surface voxel of `a` to the surface of `b`."""
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (a, b)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    surface_a, surface_b = (sitk.LabelContour(sitk.ConstantPad(image, [1] * 3, [1] * 3)) for image in images)
    far = sitk.SignedMaurerDistanceMap(surface_b, squaredDistance=False, useImageSpacing=True)
    return np.abs(sitk.GetArrayFromImage(far))[sitk.GetArrayFromImage(surface_a) > 0]


def test_half_of_a_voxels_surface_is_nearer_to_its_neighbour():
    a, b = box((9, 3, 3), (1, 1, 1), (1, 1, 1)), box((9, 3, 3), (4, 1, 1), (1, 1, 1))
    distances = between(a, b, (2.0, 1.0, 1.0), surfels)  # the near and the far faces: 4 and 6 mm
    assert [distances.share_within(mm) for mm in (3.9, 4, 5.9, 6)] == [0, 0.5, 0.5, 1]


def test_the_two_definitions_of_hd95_differ_for_an_island():
    """Its surface is a little more than 5 % of the prediction's, and less than that of both together."""
    a = box((60, 30, 30), (2, 5, 5), (15, 15, 15))
    b = a | box((60, 30, 30), (50, 10, 10), (4, 5, 5))
    distances = between(a, b, (1, 1, 1))
    assert distances.hausdorff(95) > 30 and distances.pooled_percentile(95) == 0


def test_spacings_of_32_bits_are_within_the_tolerance_they_stand_for():
    a, b = box((20, 5, 5), (2, 1, 1), (1, 3, 3)), box((20, 5, 5), (7, 1, 1), (1, 3, 3))
    spacing = tuple(np.float32([0.4, 1, 1]).tolist())
    assert between(a, b, spacing, surfels).share_within(2) == 1


def test_nothing_is_surface_for_a_neighbour_to_ignore():
    mask = box((8, 8, 8), (2, 2, 2), (4, 4, 4))
    known = np.ones_like(mask)
    known[6] = False  # beyond one of its faces
    inner_of_that_face = (5.0, 3.0, 3.0)
    points = surface_voxels(mask, (1, 1, 1), known).points.tolist()
    assert list(inner_of_that_face) in surface_voxels(mask, (1, 1, 1)).points.tolist()
    assert list(inner_of_that_face) not in points and len(points) == 56 - 4
    assert len(surfels(mask, (1, 1, 1), known).points) == len(surfels(mask, (1, 1, 1)).points) - 25

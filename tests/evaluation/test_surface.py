from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
from skimage.metrics import hausdorff_distance as hausdorff_of_scikit_image

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


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_dice_is_that_of_surface_distance(spacing):
    surface_distance = pytest.importorskip("surface_distance")
    for seed in range(3):
        a, b = speckled(seed)
        theirs = surface_distance.compute_surface_distances(b, a, spacing)
        ours = between(a, b, spacing, surfels)
        assert ours.areas_a.sum() == pytest.approx(theirs["surfel_areas_pred"].sum())
        for tolerance in (0.0, 1.0, 2.0, 4.0):
            expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
            assert ours.share_within(tolerance) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.5, 0.8)])
def test_surface_dice_in_a_plane_is_that_of_surface_distance(spacing):
    surface_distance = pytest.importorskip("surface_distance")
    a, b = speckled(0, (30, 40))
    theirs = surface_distance.compute_surface_distances(b, a, spacing)
    for tolerance in (0.0, 1.0, 2.0):
        expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert between(a, b, spacing, surfels).share_within(tolerance) == pytest.approx(expected, abs=1e-12)


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


def test_hausdorff_distance_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = (rng.random((7, 8, 9)) < 0.1 for _ in range(2))  # so sparse that nearly all voxels are surface
        assert between(a, b, (1, 1, 1)).hausdorff() == pytest.approx(hausdorff_of_scikit_image(a, b))


def test_two_single_voxels_are_as_far_as_they_lie_apart():
    a, b = box((9, 9, 9), (1, 2, 3), (1, 1, 1)), box((9, 9, 9), (4, 6, 3), (1, 1, 1))
    distances = between(a, b, (2.0, 2.0, 5.0))  # 6 and 8 mm
    assert distances.hausdorff(95) == distances.pooled_percentile(95) == distances.mean() == 10


def test_half_of_a_voxels_surface_is_nearer_to_its_neighbour():
    a, b = box((9, 3, 3), (1, 1, 1), (1, 1, 1)), box((9, 3, 3), (4, 1, 1), (1, 1, 1))
    distances = between(a, b, (2.0, 1.0, 1.0), surfels)  # the near and the far faces: 4 and 6 mm
    assert [distances.share_within(mm) for mm in (3.9, 4, 5.9, 6)] == [0, 0.5, 0.5, 1]


def test_a_shifted_box_is_as_far_as_it_was_shifted():
    a, b = box((12, 12, 12), (2, 3, 4), (4, 4, 4)), box((12, 12, 12), (4, 3, 4), (4, 4, 4))
    assert between(a, b, (3.0, 1.0, 1.0)).hausdorff() == 6


def test_concentric_spheres_are_apart_by_the_difference_of_their_radii():
    radius = np.linalg.norm(np.indices((61, 61, 61)) - 30, axis=0)
    small, large = between(radius <= 20, radius <= 26, (1, 1, 1)), between(radius <= 20, radius <= 26, (0.5, 0.5, 0.5))
    assert small.mean() == pytest.approx(6, abs=0.3) and large.mean() == pytest.approx(3, abs=0.15)
    assert small.hausdorff(95) == pytest.approx(6, abs=0.8)


def test_surfels_have_the_area_of_a_slab_and_nearly_of_a_sphere():
    slab = surfels(box((9, 40, 50), (3, 5, 5), (2, 30, 40)), (4.0, 1.0, 1.0)).areas.sum()
    assert slab == pytest.approx(2 * 30 * 40 + 2 * 8 * (30 + 40), rel=0.05)
    z, y, x = np.ogrid[-30:31:2, -30:31, -30:31]
    sphere = surfels(x**2 + y**2 + z**2 <= 25**2, (2, 1, 1)).areas.sum()
    assert 1 < sphere / (4 * math.pi * 25**2) < 1.15  # steps of voxels are longer than the curve


def test_thick_slices_do_not_weigh_more_than_their_area():
    """A column whose lid is missing: a small part of its area, and a larger one of its voxels."""
    a, b = box((14, 20, 20), (2, 5, 5), (10, 10, 10)), box((14, 20, 20), (2, 5, 5), (9, 10, 10))
    spacing = (5.0, 1.0, 1.0)
    lids, sides = 2 * 100, 40 * (50 + 45)
    by_area = between(a, b, spacing, surfels).share_within(1)
    assert by_area == pytest.approx(1 - lids / (2 * lids + sides), abs=0.02)
    voxels = between(a, b, spacing)
    by_voxel = ((voxels.from_a <= 1).sum() + (voxels.from_b <= 1).sum()) / (len(voxels.from_a) + len(voxels.from_b))
    assert by_voxel < by_area - 0.04


def test_the_95th_percentile_forgives_a_stray_voxel():
    a = box((40, 20, 20), (2, 2, 2), (10, 10, 10))
    b = a.copy()
    b[39, 19, 19] = True
    distances = between(a, b, (1, 1, 1))
    assert distances.hausdorff(95) == 0 and distances.hausdorff() > 25


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

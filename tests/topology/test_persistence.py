"""Persistence diagrams against gudhi's, known shapes, and bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gudhi
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_topomae.topology import _cubical_loops as loops
from nnunet_topomae.topology import _cubical_numba
from nnunet_topomae.topology._cubical_lower_stars import (
    CUBES,
    CUBES_OF_SQUARE,
    EDGES_OF_SQUARE,
    MAX_GRID_SIZE,
    ODD,
    SQUARES,
    grid_of,
    tables,
)
from nnunet_topomae.topology._cubical_ranks import BORDER_RANK, sort_bits, sort_voxels
from nnunet_topomae.topology._jit import jit
from nnunet_topomae.topology.persistence import batched_persistence_diagrams, persistence_diagrams

REPOSITORY = Path(__file__).parents[2]


def gudhi_points(volume: np.ndarray) -> list[np.ndarray]:
    """[n, 2] sorted points of each dimension, coefficients mod 2, by gudhi itself and not through our backend."""
    complex_ = gudhi.CubicalComplex(vertices=volume.astype(np.float64))
    complex_.compute_persistence(homology_coeff_field=2)
    return [sorted_rows(complex_.persistence_intervals_in_dimension(k).reshape(-1, 2)) for k in range(3)]


def sorted_rows(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T)]


def assert_correct(volume: np.ndarray, backend: str = "numba") -> None:
    """Gudhi's points as multisets, at voxels that carry them, and the essential class last."""
    diagrams = persistence_diagrams(volume, backend)
    flat = np.ascontiguousarray(volume).ravel()
    for diagram, expected in zip(diagrams, gudhi_points(volume), strict=True):
        np.testing.assert_array_equal(sorted_rows(diagram.points), expected)
        finite = diagram.finite()
        np.testing.assert_array_equal(flat[diagram.birth_voxel], diagram.birth)
        np.testing.assert_array_equal(flat[finite.death_voxel], finite.death)
        assert (finite.birth < finite.death).all()
        assert diagram.birth_voxel.dtype == diagram.death_voxel.dtype == np.int64
        assert diagram.birth.dtype == diagram.death.dtype == np.float64
    essential = diagrams[0].points[-1]
    np.testing.assert_array_equal(essential, [volume.min(), np.inf])
    assert diagrams[0].death_voxel[-1] == -1
    assert [len(d) - len(d.finite()) for d in diagrams] == [1, 0, 0]


shapes = st.tuples(*[st.integers(1, 5)] * 3)


@settings(max_examples=80, deadline=None)
@given(arrays(np.float64, shapes, elements=st.floats(-1e300, 1e300)))
def test_float64_volumes(volume):
    assert_correct(volume)


@settings(max_examples=80, deadline=None)
@given(arrays(np.int8, shapes, elements=st.integers(0, 3)))
def test_lattices_with_many_ties(volume):
    assert_correct(volume)


@pytest.mark.parametrize("backend", ["numba", "gudhi"])
@pytest.mark.parametrize("seed", range(5))
def test_random_volumes(seed, backend):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(5, 20, 3))
    assert_correct(rng.standard_normal(shape).astype(np.float32), backend)
    assert_correct(rng.integers(0, 5, shape), backend)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 1, 9), (1, 9, 1), (9, 1, 1), (1, 12, 13), (12, 1, 13), (12, 13, 1), (2, 2, 300), (3, 200, 4)],
)
def test_thin_and_elongated_volumes(shape):
    rng = np.random.default_rng(0)
    assert_correct(rng.standard_normal(shape))
    assert_correct(rng.integers(0, 3, shape))


def test_constant_volume_has_the_essential_class_alone():
    diagrams = persistence_diagrams(np.full((4, 5, 6), 7.5))
    assert [len(d) for d in diagrams] == [1, 0, 0]
    assert diagrams[0].points.tolist() == [[7.5, np.inf]]
    assert_correct(np.full((4, 5, 6), 7.5))


def test_every_volume_of_eight_voxels_in_three_levels():
    values = np.stack(np.meshgrid(*[np.arange(3.0)] * 8, indexing="ij"), axis=-1).reshape(-1, 2, 2, 2)
    for volume in values[::7]:
        assert_correct(volume)


def test_ct(shared_data):
    sitk = pytest.importorskip("SimpleITK")
    volume = sitk.GetArrayFromImage(sitk.ReadImage(str(shared_data / "ct" / "example_ct.nii.gz")))
    crop = volume[40:72, 35:67, 45:77]
    assert_correct(crop)  # whole Hounsfield units: ties
    assert_correct((crop + np.random.default_rng(0).normal(0, 10, crop.shape)).astype(np.float32))


# Known shapes: low values inside, so that the classes born at 0 are those of the shape.


def betti_numbers_at_zero(shape: np.ndarray) -> list[int]:
    return [int((d.birth == 0).sum()) for d in persistence_diagrams(np.where(shape, 0.0, 1.0))]


def closed_serpentine(n: int) -> np.ndarray:
    """[n, n] mask of one closed path, a voxel wide, that fills a square (n = 4k + 2)."""
    mask = np.zeros((n, n), bool)
    mask[:-1, 0] = True
    mask[:-1:2, 2:] = True
    for i, row in enumerate(range(1, n - 2, 2)):
        mask[row, -1 if i % 2 else 2] = True
    mask[0, 1] = mask[n - 2, 1] = True
    return mask


def test_long_loops():
    n = 34
    corridors = np.zeros((n, n, n), bool)
    corridors[::2] = closed_serpentine(n)
    assert betti_numbers_at_zero(corridors) == [n // 2, n // 2, 0]
    rng = np.random.default_rng(0)
    assert_correct(np.where(corridors, 0, 2 + rng.random((n, n, n))))


def test_pool_of_loops_that_is_too_small_grows(monkeypatch):
    volume = np.random.default_rng(0).standard_normal((12, 12, 12))
    compactions = []

    def counted(*args):
        compactions.append(args)
        return compacted(*args)

    def with_little_room(*args):
        *before, pool, grid, tables = args
        return loops.loop_pairs(*before, pool[:1], grid, tables)

    compacted = loops._compacted
    monkeypatch.setattr(loops, "_compacted", counted)
    monkeypatch.setattr(_cubical_numba, "loop_pairs", with_little_room)
    assert_correct(volume)
    assert compactions


# Input.


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int32, np.int64, np.uint64, np.float16, ">f4", ">i2"])
def test_types(dtype):
    assert_correct(np.random.default_rng(0).integers(0, 2, (5, 6, 7)).astype(dtype))


def test_strides():
    volume = np.random.default_rng(0).standard_normal((6, 7, 16))
    for view in (volume[::-1, :, ::2], volume.transpose(2, 0, 1), np.asfortranarray(volume)):
        assert_correct(view)


def test_float64_values_closer_than_float32_can_tell_are_no_ties():
    volume = 1 + 1e-12 * np.random.default_rng(0).permutation(6 * 7 * 8).reshape(6, 7, 8)
    assert len(persistence_diagrams(volume)[0]) > 20
    assert_correct(volume)


def test_negative_zero_is_zero():
    volume = np.where(np.random.default_rng(0).random((5, 5, 5)) < 0.5, 0.0, -0.0)
    assert [len(d) for d in persistence_diagrams(volume)] == [1, 0, 0]


@pytest.mark.parametrize("backend", ["numba", "gudhi"])
def test_bad_values_are_named(backend):
    volume = np.zeros((3, 4, 5))
    volume[1, 2, 3], volume[2, 0, 0] = np.nan, -np.inf
    with pytest.raises(ValueError, match=r"1 NaN and 1 infinite.*first \(nan\) at voxel \(1, 2, 3\)"):
        persistence_diagrams(volume, backend)


def test_bad_shapes_types_and_backends_are_named():
    with pytest.raises(ValueError, match=r"three axes.*\(4,\)"):
        persistence_diagrams(np.zeros(4))
    with pytest.raises(ValueError, match=r"empty.*\(3, 0, 5\)"):
        persistence_diagrams(np.zeros((3, 0, 5)))
    with pytest.raises(TypeError, match="complex128"):
        persistence_diagrams(np.zeros((2, 2, 2), complex))
    with pytest.raises(ValueError, match="unknown backend 'ripser'"):
        persistence_diagrams(np.zeros((2, 2, 2)), "ripser")
    with pytest.raises(ValueError, match=f"exceeds {MAX_GRID_SIZE}"):
        grid_of((1024, 1024, 1024))

    for wrong in (1, (), (0, 0), (3,), (1.0,), "01"):
        with pytest.raises(ValueError, match="dimensions must be some of 0, 1, 2"):
            persistence_diagrams(np.zeros((2, 2, 2)), dimensions=wrong)
    with pytest.raises(ValueError, match="some of 0, 1, each once"):
        persistence_diagrams(np.zeros((2, 2)), dimensions=(2,))


def test_diagrams_are_equal_where_their_arrays_are():
    volume = np.random.default_rng(0).integers(0, 9, (5, 5, 5))
    diagrams = persistence_diagrams(volume)
    again = persistence_diagrams(volume)
    assert diagrams == again and hash(diagrams) == hash(again)
    assert len({*diagrams, *again}) == 3
    assert diagrams[0] != diagrams[1] and diagrams[0] != diagrams[0].finite() and diagrams[0] != "a diagram"
    assert persistence_diagrams(volume + 1)[0] != diagrams[0]


# Choices.


@pytest.mark.parametrize("backend", ["numba", "gudhi"])
@pytest.mark.parametrize("dimensions", [(0,), (1,), (2,), (2, 0), (1, 0)])
def test_some_dimensions_are_those_of_all(backend, dimensions):
    volume = np.random.default_rng(0).integers(0, 50, (7, 8, 9))
    everything = persistence_diagrams(volume, backend)
    chosen = persistence_diagrams(volume, backend, dimensions=dimensions)
    assert chosen == tuple(everything[k] for k in dimensions)
    assert [diagram.dimension for diagram in chosen] == list(dimensions)


@settings(max_examples=50, deadline=None)
@given(arrays(np.int8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(-3, 3)))
def test_superlevel_sets_are_sublevel_sets_of_the_negative(volume):
    for falling, rising in zip(
        persistence_diagrams(volume, superlevel=True), persistence_diagrams(-volume), strict=True
    ):
        np.testing.assert_array_equal(falling.points, -rising.points)
        np.testing.assert_array_equal(falling.birth, volume.ravel()[falling.birth_voxel])
        assert falling.superlevel and (falling.persistence >= 0).all()


@settings(max_examples=50, deadline=None)
@given(arrays(np.int8, st.tuples(*[st.integers(1, 9)] * 2), elements=st.integers(0, 5)))
def test_images_in_2d(image):
    complex_ = gudhi.CubicalComplex(vertices=image.astype(np.float64))
    complex_.compute_persistence(homology_coeff_field=2)
    diagrams = persistence_diagrams(image)
    assert len(diagrams) == 2 and all(diagram.shape == image.shape for diagram in diagrams)
    for k, diagram in enumerate(diagrams):
        expected = sorted_rows(complex_.persistence_intervals_in_dimension(k).reshape(-1, 2))
        np.testing.assert_array_equal(sorted_rows(diagram.points), expected)
        np.testing.assert_array_equal(image.ravel()[diagram.birth_voxel], diagram.birth)


def test_batches_are_computed_as_their_volumes():
    volumes = np.random.default_rng(0).integers(0, 99, (5, 6, 7, 8))
    assert batched_persistence_diagrams(volumes) == [persistence_diagrams(v) for v in volumes]
    different = [volumes[0], volumes[1][:3], volumes[2][0]]
    expected = [persistence_diagrams(v, superlevel=True, dimensions=(1,)) for v in different]
    assert batched_persistence_diagrams(different, superlevel=True, dimensions=(1,)) == expected


# Parts.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_is_that_of_a_stable_sort(dtype):
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    special = [0.0, -0.0, info.max, info.min, info.smallest_subnormal, -info.smallest_subnormal]
    wide = rng.standard_normal(500) * 10.0 ** rng.integers(-30, 30, 500)
    values = np.concatenate([wide, rng.integers(-3, 3, 494), special])
    volume = rng.permutation(values).astype(dtype).reshape(10, 10, 10)
    padded = np.arange(12**3).reshape(12, 12, 12)[1:-1, 1:-1, 1:-1].ravel()
    expected = padded[np.argsort(volume.ravel(), kind="stable")]
    order, rank = np.empty(1000, np.int32), np.empty(12**3, np.int32)
    sort_voxels(sort_bits(volume), order, rank, *np.empty((2, 1000), np.int64), 10, 10, 10)
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(rank[order], np.arange(1000))
    assert np.count_nonzero(rank == BORDER_RANK) == 12**3 - 1000


def test_tables_pair_all_cells_but_the_homology_of_the_link():
    """As many critical squares as the link has independent loops; fills have the boundary that they should."""
    table = tables()
    for s in range(1 << 12):
        squares = [k for k in range(12) if s >> k & 1]
        components = int(table.first_edges[s]).bit_count()
        assert int(table.root[s]).bit_count() == (s > 0)
        assert int(table.root[s]) & ~int(table.first_edges[s]) == 0
        assert int(table.forest[s]).bit_count() == 6 - components
        possible = int(table.cubes_between[s])
        assert possible == sum(1 << c for c in range(8) if all(s >> k & 1 for k in squares_of_cube(c)))
        for c in {0, possible}:
            # vertices - edges + triangles = components - loops + (1 for the full sphere)
            loops_of_link = components - (6 - len(squares) + c.bit_count()) + (c == 255)
            assert int(table.critical[c << 12 | s]).bit_count() == loops_of_link
        for b in range(64):
            fill = int(table.fill[s << 6 | b])
            if fill < ODD:
                assert fill & ~s == 0
                boundary = 0
                for k in range(12):
                    boundary ^= int(EDGES_OF_SQUARE[k]) * (fill >> k & 1)
                assert boundary in (b, b ^ int(table.root[s]))


def squares_of_cube(cube: int) -> list[int]:
    return [k for k, (a, b) in enumerate(SQUARES) if a in CUBES[cube] and b in CUBES[cube]]


def test_a_square_lies_between_two_cubes_on_one_axis():
    for first, second in CUBES_OF_SQUARE:
        assert (int(first) ^ int(second)).bit_count() == 1


# Running.


WARM_UP = """
import sys, numba, numpy as np
from nnunet_topomae.topology.persistence import persistence_diagrams, warm_up
def compiled():
    modules = [module for name, module in sys.modules.items() if "topology._cubical" in name]
    functions = [f for module in modules for f in vars(module).values() if hasattr(f, "signatures")]
    return sum(len(f.signatures) for f in functions)
warm_up()
count = compiled()
assert count > 0
for dtype in ("float32", "float64", "int16"):
    volume = np.random.default_rng(0).integers(0, 999, (24, 24, 24)).astype(dtype)
    volume.flags.writeable = False
    persistence_diagrams(volume)
assert compiled() == count
"""


def test_warm_up_leaves_nothing_to_compile():
    done = subprocess.run(
        [sys.executable, "-c", WARM_UP], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr


def test_compiles_where_no_cache_can_be_kept(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(lambda x: x + 1, cache=True)
    assert jit(lambda x: x + 1)(1) == 2

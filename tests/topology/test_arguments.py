"""What the public functions take in the place of an array, and what they refuse, each by name."""

import re
from functools import partial

import matplotlib
import numpy as np
import pytest
import torch

from nnunet_topomae.topology import (
    PersistenceDiagram,
    batched_persistence_diagrams,
    betti_curve,
    betti_error,
    betti_matching_error,
    betti_numbers,
    bottleneck_distance,
    differentiable_points,
    persistence_diagrams,
    plot_diagrams,
    squared_wasserstein,
)

matplotlib.use("Agg")
VOLUMES = np.random.default_rng(0).integers(-9, 9, (3, 4, 5, 6)).astype(np.float32)
A, B = persistence_diagrams(VOLUMES[0]), persistence_diagrams(VOLUMES[1])
ONES = np.ones((2, 2, 2), int)
NAN = PersistenceDiagram([np.nan], [1.0], [0], [1])
POINTS = np.array([[0.0, 1.0], [0.0, 2.0]])

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
TENSORS = {
    "of a gradient": lambda values: torch.tensor(values).requires_grad_(),
    "half": lambda values: torch.tensor(values).half(),
    "bfloat16": lambda values: torch.tensor(values, dtype=torch.bfloat16).requires_grad_(),
    "float64": lambda values: torch.tensor(values).double(),
    "integer": lambda values: torch.tensor(values).to(torch.int16),
    "transposed": lambda values: torch.tensor(np.moveaxis(values, 0, -1).copy()).movedim(-1, 0),
    "a negative view": lambda values: torch.imag(torch.complex(torch.tensor(0 * values), -torch.tensor(values)).conj()),
    "CUDA": pytest.param(lambda values: torch.tensor(values).cuda().requires_grad_(), marks=needs_cuda),
}
ARRAYS = {
    "read-only": lambda values: np.frombuffer(values.tobytes(), values.dtype).reshape(values.shape),
    "strided": lambda values: np.repeat(values, 2, axis=-1)[..., ::2],
    "nested lists": lambda values: values.tolist(),
    "a list of tensors": lambda values: [torch.tensor(value).requires_grad_() for value in values],
    "a tuple of half tensors": lambda values: tuple(torch.tensor(value).half() for value in values),
}
KINDS = TENSORS | ARRAYS


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_function_takes_it_in_the_place_of_an_array(kind) -> None:
    assert persistence_diagrams(kind(VOLUMES[0])) == A
    assert batched_persistence_diagrams(kind(VOLUMES)) == [persistence_diagrams(volume) for volume in VOLUMES]
    result = squared_wasserstein(kind(POINTS), kind(POINTS + 1))
    assert result.cost == 3  # the long-lived two paired, at 2, the others alone, at 1/2 each
    mask = (VOLUMES[0] < 0).astype(np.float32)
    assert betti_numbers(kind(mask)) == betti_numbers(mask)
    assert betti_error(kind(mask), 0 * mask, [1]) == {1: betti_numbers(mask)}
    assert betti_matching_error(kind(mask), 0 * mask) == betti_numbers(mask)
    levels = np.array([-3.0, 0.0, 3.0])
    np.testing.assert_array_equal(betti_curve(A[0], kind(levels[None])[0]), betti_curve(A[0], levels))


def test_a_diagram_of_ones_own_takes_them_too() -> None:
    diagram = PersistenceDiagram(torch.tensor([0.0, 1.0]).half(), [2, 3], torch.tensor([0, 1]), (1, 2))
    assert diagram == PersistenceDiagram(*np.array([[0.0, 1.0], [2.0, 3.0]]), *np.array([[0, 1], [1, 2]]))
    np.testing.assert_array_equal(diagram.points, [[0, 2], [1, 3]])
    assert diagram.points.dtype == np.float64 and diagram.death_voxel.dtype == np.int64


def test_labels_may_be_tensors() -> None:
    expected = betti_error(0 * ONES, ONES, [1, (1, 2)])
    assert betti_error(0 * ONES, ONES, [torch.tensor(1), torch.tensor([1, 2])]) == expected
    assert betti_error(0 * ONES, ONES, torch.tensor([1])) == {1: (1, 0, 0)}


REFUSED = {  # the call, and what its error must say
    "two homology dimensions": (partial(squared_wasserstein, A[0], B[1]), "dimensions, 0 and 1"),
    "the same in the bottleneck distance": (partial(bottleneck_distance, A[2], B[1]), "dimensions, 2 and 1"),
    "the same in a picture": (partial(plot_diagrams, A[0], B[1]), "dimensions, 0 and 1"),
    "all diagrams for one": (partial(squared_wasserstein, A, B), "3 in the place of one"),
    "all beside one": (partial(bottleneck_distance, A[0], list(B)), "3 in the place of one"),
    "all to count": (partial(betti_curve, A, [0.0]), "one diagram"),
    "all to differentiate": (partial(differentiable_points, A, torch.tensor(VOLUMES[0])), "one diagram"),
    "points for a diagram": (partial(bottleneck_distance, POINTS, POINTS), "one diagram"),
    "points to draw": (partial(plot_diagrams, POINTS), "one diagram"),
    "a voxel that is no index": (partial(PersistenceDiagram, [0], [1], [0.5], [1]), "row of 1 integers; got float64"),
    "classes by number": (partial(A[0].where, [0, 1]), "keep must be boolean"),
    "nothing to draw": (partial(plot_diagrams, []), "no diagram"),
    "another's matching": (partial(plot_diagrams, A[0], B[0], squared_wasserstein(A[1], B[1])), "other diagrams"),
    "an array to differentiate": (partial(differentiable_points, A[0], VOLUMES[0]), "floating-point tensor"),
    "integers to differentiate": (partial(differentiable_points, A[0], torch.ones(4, 5, 6).int()), "int32"),
    "NaN at any distance": (partial(bottleneck_distance, A[0], NAN), "NaN"),
    "NaN to count": (partial(betti_curve, NAN, [0.0]), "NaN"),
    "rows of two lengths": (partial(PersistenceDiagram, [0, 1], [2, 3], [0], [1, 2]), "birth_voxel must be a row of 2"),
    "points for births": (partial(PersistenceDiagram, POINTS, [1, 2], [0, 1], [1, 2]), "birth must be a row"),
    "words": (partial(PersistenceDiagram, ["a"], [1], [0], [1]), "birth must be a row of 1 numbers"),
    "a fourth dimension": (partial(PersistenceDiagram, [0], [1], [0], [1], dimension=3), "dimension must be"),
    "the second of a batch": (partial(batched_persistence_diagrams, [ONES, np.nan * ONES]), "volumes[1] holds 8 NaN"),
    "a batch of batches": (partial(batched_persistence_diagrams, torch.zeros(1, 3, 4, 5, 6)), "volumes[0] must have"),
    "three columns": (partial(squared_wasserstein, POINTS, torch.zeros(4, 3)), "diagram b must have the shape [n, 2]"),
    "integers that float64 merges": (partial(squared_wasserstein, [[0, 2**53 + 2]], POINTS), "beyond 2**53"),
    "such a tensor": (partial(persistence_diagrams, torch.full((2, 2, 2), 2**53 + 2)), "beyond 2**53"),
    "a mask with channels": (partial(betti_numbers, torch.ones(1, 2, 2, 2)), "three axes"),
    "labels for a mask": (partial(betti_numbers, 2 * ONES), "0 and 1"),
    "NaN for a mask": (partial(betti_numbers, np.nan * ONES), "0 and 1"),
    "labels for two masks": (partial(betti_matching_error, ONES, 2 * ONES), "0 and 1"),
    "masks of two shapes": (partial(betti_matching_error, ONES, ONES[:1]), "have one shape"),
    "an odd connectivity": (partial(betti_numbers, ONES, 18), "6 or 26"),
    "maps of two shapes": (partial(betti_error, ONES, ONES[:1], [1]), "differ in shape"),
    "half labels": (partial(betti_error, 0.5 * ONES, ONES, [1]), "prediction must be a map of integer labels"),
    "names for labels": (partial(betti_error, ONES, ONES.astype(str), [1]), "reference must be a map"),
    "masked labels": (partial(betti_error, ONES, np.ma.masked_equal(ONES, 1), [1]), "reference is an array"),
    "a masked volume": (partial(persistence_diagrams, np.ma.masked_equal(ONES, 1)), "fill them first"),
    "masked points": (partial(squared_wasserstein, np.ma.masked_equal(POINTS, 2), POINTS), "diagram a is an array"),
    "one label for several": (partial(betti_error, ONES, ONES, 1), "labels must be several"),
    "a word for labels": (partial(betti_error, ONES, ONES, "12"), "labels must be several"),
    "a table of levels": (partial(betti_curve, A[0], [[0.0]]), "a row of numbers"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(call, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    "label", ["1", {1}, 1.0, None, True, (), ("1",), [1, "2"], (1, 2.0), {1: 2}, torch.tensor(1.0), torch.tensor([])]
)
def test_a_label_that_no_voxel_can_have_is_refused(label: object) -> None:
    with pytest.raises(TypeError, match="a label is an integer"):
        betti_error(ONES, ONES, [1, label])

"""From an nnU-Net plan to tokens and strides. No number of a dataset stands here."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Size3D = tuple[int, int, int]
Strides = tuple[Size3D, Size3D, Size3D, Size3D]

AXES = ("first", "second", "third")
LARGEST_EDGE = 2**16  # voxels; far beyond any volume, so a number above is a slip
MIN_EDGE = 4  # voxels; also the smallest feature map that nnU-Net's planner allows
MIN_HALVINGS = 2  # of the most halved axis: fewer leave UNETR++'s stages and the ViT's tokens nothing to summarise


@dataclass(frozen=True)
class Geometry:
    """How a patch is cut into the ViT's tokens, in the axis order of nnU-Net's patch.

    Attributes:
        patch_size: voxels of the input.
        token_size: voxels of a token.

    Raises:
        ValueError: tokens that do not divide the patch.
    """

    patch_size: Size3D
    token_size: Size3D

    def __post_init__(self) -> None:
        grid(self.patch_size, self.token_size)

    @property
    def token_grid(self) -> Size3D:
        """Tokens along each axis."""
        return grid(self.patch_size, self.token_size)

    @property
    def num_tokens(self) -> int:
        return math.prod(self.token_grid)


def geometry_from_plan(patch_size: Sequence[int], pool_op_kernel_sizes: Sequence[Sequence[int]]) -> Geometry:
    """The tokens for one configuration of an nnU-Net plan: as large as what `strides_from_plan` halves in three stages.

    That is one grid point of UNETR++'s third stage, so that masks and fusion line up. Arguments and errors are those of
    `strides_from_plan`.
    """
    patch_size, strides = strides_from_plan(patch_size, pool_op_kernel_sizes)
    return Geometry(patch_size, cumulative(strides)[2])


def strides_from_plan(
    patch_size: Sequence[int], pool_op_kernel_sizes: Sequence[Sequence[int]]
) -> tuple[Size3D, Strides]:
    """The patch, and the strides of four stages: a stem and three downsamplings.

    An axis gets as many halvings as the plan gives it, up to five.

    | halvings in the plan | stem | stages  |
    | -------------------- | ---- | ------- |
    | 5 or more            | 4    | 2, 2, 2 |
    | 4                    | 2    | 2, 2, 2 |
    | 3                    | 2    | 2, 2, 1 |
    | 2                    | 2    | 2, 1, 1 |
    | 1                    | 2    | 1, 1, 1 |
    | 0                    | 1    | 1, 1, 1 |

    An axis of at most three halvings that the plan starts to halve later than the others (thick slices) has stem 1,
    and each halving in the stage, from the first on, that halves the other axes at the same place of the plan.
    This gives the published stems of UNETR++: (4, 4, 4) on BraTS, (2, 4, 4) on Synapse, (1, 4, 4) on ACDC.

    Args:
        patch_size: of the configuration, voxels.
        pool_op_kernel_sizes: the plan's strides, one triple a stage.

    Raises:
        ValueError: no lists of positive integers; a 2d configuration; a patch too small; a stride that is no power of
            two; a patch that the strides do not divide. The message says which axis and what to change.
    """
    patch_size = _positive_integers("patch_size", patch_size)
    if len(patch_size) != 3:
        raise ValueError(
            f"patch {_times(patch_size)} has {len(patch_size)} axes, the networks are three-dimensional: "
            "use the configuration 3d_fullres (or 3d_lowres) instead of 2d"
        )
    pool_op_kernel_sizes = [
        _positive_integers(f"pool_op_kernel_sizes[{stage}] (strides)", strides, length=3)
        for stage, strides in enumerate(_sequence("pool_op_kernel_sizes (strides)", pool_op_kernel_sizes))
    ]
    halvings = [_halvings_of_axis(axis, pool_op_kernel_sizes) for axis in range(3)]
    _require_large_enough(patch_size, halvings)
    first = min(places[0] for places in halvings if places)
    on_time = [places for places in halvings if places and places[0] == first]
    reference = max(on_time, key=len)
    of_axes = [
        _late_strides(places, reference) if places and len(places) <= 3 and places[0] > first else _strides(len(places))
        for places in halvings
    ]
    stem, *stages = (triple(stage) for stage in zip(*of_axes, strict=True))
    strides = (stem, *triple(stages))
    grid(patch_size, cumulative(strides)[-1])
    return patch_size, strides


def cumulative(strides: Iterable[Sequence[int]]) -> list[Size3D]:
    """Voxels per grid point in each stage."""
    products = accumulate(strides, lambda before, stride: triple(a * b for a, b in zip(before, stride, strict=True)))
    return [triple(product) for product in products]


def grid(patch_size: Size3D, stride: Size3D) -> Size3D:
    """Grid points of a patch. Raises ValueError where they would not fill it."""
    for axis, (size, step) in enumerate(zip(patch_size, stride, strict=True)):
        if size % step:
            raise ValueError(
                f"the {AXES[axis]} axis of patch {_times(patch_size)} has {size} voxels, which the total "
                f"stride {step} does not divide: set patch_size[{axis}] in the plans to a multiple of {step}"
            )
    return triple(size // step for size, step in zip(patch_size, stride, strict=True))


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Three values, one an axis or a stage. Raises ValueError for fewer or more."""
    first, second, third = values
    return first, second, third


def _positive_integers(name: str, values: object, length: int | None = None) -> tuple[int, ...]:
    """`values` of a plan, which is a file that anybody may have edited, as a tuple of `length`."""
    values = _sequence(name, values)
    if length is not None and len(values) != length:
        raise ValueError(f"{name} in the plans must hold {length} numbers, one an axis, not {reprlib.repr(values)}")
    for value in values:
        is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)  # nnU-Net cannot use 64.0
        if not is_integer or not 1 <= value <= LARGEST_EDGE:
            raise ValueError(
                f"{name} in the plans must hold integers from 1 to {LARGEST_EDGE}, not {reprlib.repr(value)}"
            )
    return tuple(int(value) for value in values)


def _sequence(name: str, values: object) -> Sequence[Any] | NDArray[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
        raise ValueError(f"{name} in the plans must be a list, not {reprlib.repr(values)}")
    return values


def _halvings_of_axis(axis: int, pool_op_kernel_sizes: Sequence[Sequence[int]]) -> list[int]:
    """The stages of the plan that halve this axis; a stage of stride 4 counts twice."""
    places = []
    for stage, strides in enumerate(pool_op_kernel_sizes):
        exponent = strides[axis].bit_length() - 1
        if strides[axis] != 2**exponent:
            raise ValueError(
                f"stage {stage} of the plan has stride {strides[axis]} on the {AXES[axis]} axis: "
                "the networks need powers of two in pool_op_kernel_sizes (strides), as nnU-Net's planners write them"
            )
        places += [stage] * exponent
    return places


def _require_large_enough(patch_size: Size3D, halvings: list[list[int]]) -> None:
    too_small = f"patch {_times(patch_size)} is too small"
    for axis, size in enumerate(patch_size):
        if size < MIN_EDGE:
            raise ValueError(
                f"{too_small}: its {AXES[axis]} axis has {size} voxels, the networks need {MIN_EDGE}. "
                f"Set patch_size[{axis}] in the plans to {MIN_EDGE} or more, or plan a finer spacing on this axis"
            )
    most = max(range(3), key=lambda axis: len(halvings[axis]))
    if len(halvings[most]) < MIN_HALVINGS:
        raise ValueError(
            f"{too_small}: pool_op_kernel_sizes in the plans halve no axis {MIN_HALVINGS} times, as the networks need. "
            f"Enlarge patch_size[{most}] and halve that axis more often"
        )


def _strides(halvings: int) -> list[int]:
    """Stem and three stages for an axis that is halved from the plan's first halving on."""
    stem = 4 if halvings >= 5 else 2 if halvings else 1
    left = halvings - (stem.bit_length() - 1)
    return [stem, *(2 if stage < left else 1 for stage in range(3))]


def _late_strides(places: list[int], reference: list[int]) -> list[int]:
    """Stem 1 and three stages for an axis whose first halving comes later in the plan than that of `reference`."""
    strides = [1, 1, 1, 1]
    stem_halvings = _strides(len(reference))[0].bit_length() - 1
    stage = 0
    for number, place in enumerate(places):
        same_as_reference = sum(other <= place for other in reference) - stem_halvings
        latest = 3 - (len(places) - 1 - number)  # leave a stage to each halving that follows
        stage = min(max(same_as_reference, stage + 1), latest)
        strides[stage] = 2
    return strides


def _times(size: Sequence[int]) -> str:
    return "×".join(str(int(edge)) for edge in size)

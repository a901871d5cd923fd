"""Checks of what the public functions are given: arrays or tensors, and settings that several of them share."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy import ma  # `np.ma` would be imported at its first use, on which a forked child can wait for ever

LARGEST_EXACT_INTEGER = 2**53  # float64 holds every integer up to here


def as_array(values: Any, name: str) -> np.ndarray:
    """The values as an array. A tensor may be on any device, require a gradient, or be of a type that NumPy lacks.

    A list may hold tensors, too, of one shape. Raises ValueError for masked values, as no function here can leave
    voxels or points out, and for integers that float64 cannot tell apart.
    """
    if ma.is_masked(values):
        raise ValueError(f"{name} is an array with masked values: fill them first, as in `{name}.filled(0)`")
    if is_tensor(values):
        values = values.detach().resolve_conj().resolve_neg().cpu()
        unknown = values.is_floating_point() and values.dtype.itemsize < 4  # bfloat16, eight bits
        array = (values.float() if unknown else values).numpy()
    elif isinstance(values, (list, tuple)) and any(map(is_tensor, values)):
        array = np.stack([as_array(value, name) for value in values])
    else:
        array = np.asarray(values)
    wide = array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size
    if wide and max(int(array.max()), -int(array.min())) > LARGEST_EXACT_INTEGER:
        raise ValueError(f"{name} holds integers beyond 2**53, which float64 cannot tell apart: shift them first")
    return array


def as_mask(values: Any) -> np.ndarray:
    """[D, H, W], boolean, of booleans or 0 and 1; ValueError for anything else."""
    mask = as_array(values, "mask")
    if mask.ndim != 3:
        raise ValueError(f"a mask has three axes, [D, H, W]; got shape {list(mask.shape)}")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ValueError("a mask holds 0 and 1 only; for a label map compare with a label first, as in `labels == 2`")
    return mask.astype(bool)


def is_tensor(values: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(values, torch.Tensor)


def is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether the value is a real number and not NaN."""
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def checked_dimensions(dimensions: Any, count: int = 3) -> tuple[int, ...]:
    """Distinct homology dimensions below `count`, in the given order, or a ValueError."""
    chosen = tuple(dimensions) if isinstance(dimensions, Iterable) else None
    if not chosen or not all(is_integer(k) and 0 <= k < count for k in chosen) or len(set(chosen)) < len(chosen):
        choices = ", ".join(map(str, range(count)))
        raise ValueError(f"dimensions must be some of {choices}, each once, as in (0, 1); got {dimensions!r}")
    return tuple(map(int, chosen))


def checked_tolerance(rel_tol: Any) -> float:
    """A positive finite number, or a ValueError."""
    if not is_number(rel_tol) or not 0 < rel_tol < math.inf:
        raise ValueError(f"rel_tol must be positive and finite, as in 0.01; got {rel_tol!r}")
    return float(rel_tol)

"""Persistence diagrams of 3D and 2D images.

Conventions. An image is a cubical complex whose vertices are the voxels; neighbouring vertices span edges, squares
and cubes (the V-construction). A cell enters with its highest voxel (sublevel-set filtration), so every birth and
every death is the value of one voxel, the critical voxel, through which a loss can be differentiated. Superlevel sets
are the sublevel sets of the negative image. Homology is taken with coefficients mod 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from . import _cubical_gudhi, _cubical_numba, pool
from ._arguments import as_array, checked_dimensions
from ._first_use import once
from ._jit import interruptible

Backend = Literal["numba", "gudhi"]
Engine = Callable[[np.ndarray, tuple[int, ...]], tuple[dict[int, np.ndarray], int]]
_REAL, _INDEX = np.dtype(np.float64), np.dtype(np.int64)
_ROWS = {"birth": _REAL, "death": _REAL, "birth_voxel": _INDEX, "death_voxel": _INDEX}


@dataclass(frozen=True, eq=False)
class PersistenceDiagram:
    """The classes of one homology dimension: when each appears and disappears, and at which voxel.

    Diagrams are equal where all their arrays are. One made by hand takes lists and tensors, too; what are not rows of
    numbers, of one length, is a ValueError.

    Attributes:
        birth: [n] float64.
        death: [n] float64, +inf for an essential class, which never dies (−inf with `superlevel`).
        birth_voxel: [n] int64, flat C-order index of the voxel whose value is the birth.
        death_voxel: [n] int64, the same for the death; -1 for an essential class.
        dimension: of homology; None for a diagram from elsewhere.
        shape: of the image, likewise.
        superlevel: whether the level falls, so that classes die at lower values than they are born at.
    """

    birth: np.ndarray
    death: np.ndarray
    birth_voxel: np.ndarray
    death_voxel: np.ndarray
    dimension: int | None = None
    shape: tuple[int, ...] | None = None
    superlevel: bool = False

    def __post_init__(self) -> None:
        if self.dimension not in (None, 0, 1, 2):
            raise ValueError(f"dimension must be 0, 1, 2 or None, got {self.dimension!r}")
        for name, kind in _ROWS.items():
            row = getattr(self, name)
            if type(row) is not np.ndarray or row.dtype is not kind or row.ndim != 1 or len(row) != len(self.birth):
                row = as_array(row, name)
                kinds, what = ("biuf", "numbers") if kind is _REAL else ("iu", "integers")
                if row.shape != (len(self.birth),) or row.size and row.dtype.kind not in kinds:
                    shape = list(row.shape)
                    raise ValueError(
                        f"{name} must be a row of {len(self.birth)} {what}; got {row.dtype} of shape {shape}"
                    )
                object.__setattr__(self, name, row.astype(kind))

    def __len__(self) -> int:
        return len(self.birth)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PersistenceDiagram):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    def __hash__(self) -> int:
        return hash((self.birth_voxel.tobytes(), self.death_voxel.tobytes()))

    @property
    def points(self) -> np.ndarray:
        """[n, 2] float64, (birth, death)."""
        return np.stack([self.birth, self.death], axis=1)

    @property
    def persistence(self) -> np.ndarray:
        """[n] float64, |death − birth|: how long each class lives."""
        return np.abs(self.death - self.birth)

    def finite(self) -> PersistenceDiagram:
        """The diagram without its essential class."""
        return self.where(self.death_voxel >= 0)

    def where(self, keep: np.ndarray) -> PersistenceDiagram:
        """The diagram of the classes for which `keep` [n] is true."""
        keep = as_array(keep, "keep")
        if keep.dtype != bool:
            raise TypeError(f"keep must be boolean, one a class; got {keep.dtype}")
        return replace(self, **{name: getattr(self, name)[keep] for name in _ROWS})


def check_diagram(diagram: Any) -> None:
    """Raises TypeError for what is not one diagram, ValueError for one with NaN."""
    if not isinstance(diagram, PersistenceDiagram):
        raise TypeError(f"give one diagram, as from persistence_diagrams; got {type(diagram).__name__}")
    if np.isnan(diagram.birth).any() or np.isnan(diagram.death).any():
        raise ValueError("the diagram holds NaN")


def check_comparable(a: Any, b: Any) -> None:
    """Of two diagrams, or arrays in their place. Arrays have no dimension that could be wrong, and are sublevel sets'.

    Raises:
        TypeError: several diagrams in the place of one.
        ValueError: diagrams of two homology dimensions, or of sublevel and of superlevel sets.
    """
    for diagrams in (a, b):
        if isinstance(diagrams, (list, tuple)) and any(isinstance(d, PersistenceDiagram) for d in diagrams):
            raise TypeError(f"two diagrams are compared; got {len(diagrams)} in the place of one: take one dimension's")
    if getattr(a, "superlevel", False) != getattr(b, "superlevel", False):
        raise ValueError("a diagram of superlevel sets is comparable only with another of superlevel sets")
    k, m = getattr(a, "dimension", None), getattr(b, "dimension", None)
    if k is not None and m is not None and k != m:
        raise ValueError(f"diagrams of two homology dimensions, {k} and {m}, are not comparable: take the same of each")


def persistence_diagrams(
    volume: Any,
    backend: Backend = "numba",
    *,
    dimensions: Sequence[int] | None = None,
    superlevel: bool = False,
) -> tuple[PersistenceDiagram, ...]:
    """Persistence diagrams of an image, one for each homology dimension: 0, 1 and 2, or 0 and 1 in 2D.

    Classes of zero persistence are left out. The one essential class, the component of the global minimum, is the last
    entry of dimension 0. Threads can run at once: the GIL is released. Memory at the peak: 40 to 50 bytes a voxel for a
    float32 CT, 50 to 65 for white noise, more where loops are long (75 for walls of noise around corridors).

    Args:
        volume: [D, H, W] or [H, W], array or tensor (on any device, with gradient or without), any strides; floating
            up to float64, integer or boolean. Values must be finite.
        backend: "numba", our own algorithm, or "gudhi", the slow reference. They give the same points; where several
            voxels have a point's birth or death value, they may name different ones.
        dimensions: those wanted, in the order of the answer. Dimension 0 alone takes a quarter (noise) to half (smooth
            images) of the time, 1 needs all.
        superlevel: let the level fall instead of rise: components are born at maxima, and births lie above deaths.

    Raises:
        ValueError: neither two nor three axes, an empty axis, NaN or infinity, masked values, integers too large for
            float64, unknown backend or dimension.
        TypeError: an array of another kind (complex, object, long double, ...).
    """
    values = _checked(volume)
    wanted = checked_dimensions(range(values.ndim) if dimensions is None else dimensions, values.ndim)
    grid = values if values.ndim == 3 else values[None]
    pairs, essential = _engine(backend)(-grid if superlevel else grid, wanted)
    flat = values.ravel()
    diagrams = []
    for k in wanted:
        birth_voxel, death_voxel = pairs[k].T
        birth, death = flat[birth_voxel].astype(np.float64), flat[death_voxel].astype(np.float64)
        if k == 0:
            birth, death = np.append(birth, flat[essential]), np.append(death, -np.inf if superlevel else np.inf)
            birth_voxel, death_voxel = np.append(birth_voxel, essential), np.append(death_voxel, -1)
        diagrams.append(PersistenceDiagram(birth, death, birth_voxel, death_voxel, k, values.shape, superlevel))
    return tuple(diagrams)


def batched_persistence_diagrams(
    volumes: Iterable[Any],
    backend: Backend = "numba",
    *,
    dimensions: Sequence[int] | None = None,
    superlevel: bool = False,
) -> list[tuple[PersistenceDiagram, ...]]:
    """`persistence_diagrams` of each volume of an [N, D, H, W] array or tensor, or of any iterable, on all cores."""
    run = partial(persistence_diagrams, backend=backend, dimensions=dimensions, superlevel=superlevel)
    arrays = [_checked(volume, f"volumes[{i}]") for i, volume in enumerate(volumes)]
    return pool.collect([pool.submit(run, array, size=array.size) for array in arrays])


@once
def warm_up() -> None:
    """Compile the algorithm for both types that it works on, or load what an earlier process has compiled."""
    plateau = np.pad(np.ones((1, 12, 12)), ((0, 0), (1, 1), (1, 1)))  # its one loop is long enough to use all functions
    for dtype in (np.float32, np.float64):
        _cubical_numba.persistence_pairs(plateau.astype(dtype), (0, 1, 2))


def _engine(backend: Backend) -> Engine:
    if backend == "numba":
        warm_up()
        return interruptible(_cubical_numba.persistence_pairs)
    if backend == "gudhi":
        return _cubical_gudhi.persistence_pairs
    raise ValueError(f"unknown backend {backend!r}: choose {' or '.join(map(repr, get_args(Backend)))}")


def _checked(volume: Any, name: str = "volume") -> np.ndarray:
    """The volume as float32 or float64, whichever holds its values, or an error that says why it cannot be used."""
    volume = as_array(volume, name)
    if volume.ndim not in (2, 3):
        raise ValueError(f"{name} must have three axes, [D, H, W], or two, as an image; got shape {volume.shape}")
    if volume.size == 0:
        raise ValueError(f"{name} is empty: shape {volume.shape}")
    if volume.dtype.kind not in "fiub" or volume.dtype.itemsize > 8:
        raise TypeError(f"{name} must hold real numbers of at most 64 bits; got {volume.dtype}")
    if volume.dtype.kind == "f" and not (finite := np.isfinite(volume)).all():
        first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), volume.shape))
        raise ValueError(
            f"{name} holds {np.count_nonzero(np.isnan(volume))} NaN and {np.count_nonzero(np.isinf(volume))} infinite "
            f"values, the first ({volume[first]}) at voxel {first}: persistence needs finite values"
        )
    return volume.astype(np.result_type(volume.dtype, np.float32), copy=False)

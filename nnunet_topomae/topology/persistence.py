"""Persistence diagrams of 3D images.

Conventions. A volume is a cubical complex whose vertices are the voxels; neighbouring vertices span edges, squares
and cubes (the V-construction). A cell enters with its highest voxel (sublevel-set filtration), so every birth and
every death is the value of one voxel, the critical voxel, through which a loss can be differentiated.
Homology is taken with coefficients mod 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import _cubical_numba

Backend = Literal["numba", "gudhi"]
_LARGEST_EXACT_INTEGER = 2**53  # float64 holds every integer up to here


@dataclass(frozen=True)
class PersistenceDiagram:
    """The classes of one homology dimension: when each appears and disappears, and at which voxel.

    Attributes:
        birth: [n] float64.
        death: [n] float64, +inf for an essential class (which never dies).
        birth_voxel: [n] int64, flat C-order index of the voxel whose value is the birth.
        death_voxel: [n] int64, the same for the death; -1 for an essential class.
    """

    birth: np.ndarray
    death: np.ndarray
    birth_voxel: np.ndarray
    death_voxel: np.ndarray

    def __len__(self) -> int:
        return len(self.birth)

    @property
    def points(self) -> np.ndarray:
        """[n, 2] float64, (birth, death)."""
        return np.stack([self.birth, self.death], axis=1)

    def finite(self) -> PersistenceDiagram:
        """The diagram without its essential class."""
        keep = self.death_voxel >= 0
        return PersistenceDiagram(self.birth[keep], self.death[keep], self.birth_voxel[keep], self.death_voxel[keep])


def persistence_diagrams(
    volume: np.ndarray, backend: Backend = "numba"
) -> tuple[PersistenceDiagram, PersistenceDiagram, PersistenceDiagram]:
    """Persistence diagrams of a volume in homology dimensions 0, 1 and 2.

    Classes of zero persistence are left out. The one essential class, the component of the global minimum, is the last
    entry of dimension 0. Threads can run at once: the GIL is released. Memory at the peak: about 40 bytes a voxel for a
    float32 CT, 80 for white noise, more where loops are long (250 for walls of noise around corridors that fill 64³).

    Args:
        volume: [D, H, W], any strides; floating-point up to float64, integer or boolean. Values must be finite.
        backend: "numba", our own algorithm, or "gudhi", the slow reference. They give the same points; where several
            voxels have a point's birth or death value, they may name different ones.

    Raises:
        ValueError: not three axes, an empty axis, NaN or infinity, integers too large for float64, unknown backend.
        TypeError: an array of another kind (complex, object, long double, ...).
    """
    values = _checked(volume)
    if backend == "numba":
        pairs, essential = _cubical_numba.persistence_pairs(values)
    elif backend == "gudhi":
        from . import _cubical_gudhi  # takes long to import

        pairs, essential = _cubical_gudhi.persistence_pairs(values)
    else:
        raise ValueError(f"unknown backend {backend!r}: choose 'numba' or 'gudhi'")
    flat = values.ravel().astype(np.float64)
    diagrams = [PersistenceDiagram(flat[p[:, 0]], flat[p[:, 1]], p[:, 0], p[:, 1]) for p in pairs]
    diagrams[0] = _with_essential(diagrams[0], flat[essential], essential)
    return tuple(diagrams)


def _with_essential(diagram: PersistenceDiagram, birth: float, voxel: int) -> PersistenceDiagram:
    return PersistenceDiagram(
        np.append(diagram.birth, birth),
        np.append(diagram.death, np.inf),
        np.append(diagram.birth_voxel, voxel),
        np.append(diagram.death_voxel, -1),
    )


def _checked(volume: np.ndarray) -> np.ndarray:
    """The volume as float32 or float64, whichever holds its values, or an error that says why it cannot be used."""
    volume = np.asarray(volume)
    if volume.ndim != 3:
        raise ValueError(f"a volume has three axes, [D, H, W]; got shape {volume.shape}")
    if volume.size == 0:
        raise ValueError(f"the volume is empty: shape {volume.shape}")
    if volume.dtype.kind not in "fiub" or volume.dtype.itemsize > 8:
        raise TypeError(f"a volume holds real numbers of at most 64 bits; got {volume.dtype}")
    if volume.dtype.kind == "f":
        _refuse_non_finite(volume)
    elif volume.dtype.itemsize == 8 and max(int(volume.max()), -int(volume.min())) > _LARGEST_EXACT_INTEGER:
        raise ValueError("the volume holds integers beyond 2**53, which float64 cannot tell apart: shift them first")
    return volume.astype(np.result_type(volume.dtype, np.float32), copy=False)


def warm_up() -> None:
    """Compile the algorithm for both types that it works on, or load what an earlier process has compiled."""
    plateau = np.pad(np.ones((1, 12, 12)), ((0, 0), (1, 1), (1, 1)))  # its one loop is long enough to use all functions
    for dtype in (np.float32, np.float64):
        persistence_diagrams(plateau.astype(dtype))


def _refuse_non_finite(volume: np.ndarray) -> None:
    finite = np.isfinite(volume)
    if finite.all():
        return
    first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), volume.shape))
    raise ValueError(
        f"the volume holds {np.count_nonzero(np.isnan(volume))} NaN and {np.count_nonzero(np.isinf(volume))} infinite "
        f"values, the first ({volume[first]}) at voxel {first}: persistence needs finite values"
    )

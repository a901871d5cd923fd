"""The topological loss: how far a reconstruction's persistence diagrams are from the target's, differentiably.

    L(x, x̂) = 1/2 · Σ_k W2(D_k(x), D_k(x̂))²                       (Gu et al., arXiv 2406.10519)

D_k is the persistence diagram of sublevel sets in homology dimension k (`persistence.py`), W2 the 2-Wasserstein
distance with diagonal and Euclidean ground metric (`wasserstein.py`). Birth and death are values of single voxels, so
along a fixed matching the cost is a quadratic function of those voxels, and its gradient is that of W2² wherever the
values are distinct and the optimal matching is unique, which is almost everywhere (Carrière et al., *Optimizing
persistent homology based functions*, ICML 2021).

Diagrams and matchings are computed on the CPU, by the threads of `pool`; value and gradient come back as numbers. The
thread that submits does not wait for a GPU that is still computing the reconstruction: one of the pool's does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from . import pool
from ._arguments import checked_dimensions, checked_tolerance, is_integer, is_number
from ._first_use import warm_up
from .low_pass import low_pass
from .persistence import Backend, PersistenceDiagram, persistence_diagrams
from .wasserstein import squared_wasserstein

Diagrams = tuple[PersistenceDiagram, ...]
Normalisation = Literal["none", "voxels"]


class LossTerms(NamedTuple):
    """The loss and what it is made of.

    Attributes:
        loss: scalar tensor, the sum of `per_dimension`.
        per_dimension: for each homology dimension its part of the loss, for a log.
        bounds: (lower, upper), certified: with exact matchings it lies between.
    """

    loss: Tensor
    per_dimension: dict[int, float]
    bounds: tuple[float, float]


class TopologicalLoss(nn.Module):
    """1/2 · Σ_k W2(D_k(x), D_k(x̂))², the mean over batch and channels, each channel being a volume of its own.

    The gradient flows into the reconstruction only. Value and gradient depend on nothing but the input: they are summed
    in a fixed order, and no operation is used that PyTorch lists as non-deterministic. Inputs of any floating type are
    compared in float32, also under autocast. A reconstruction with NaN or infinity gives a NaN loss and NaN gradients,
    which a GradScaler skips; so does one whose loss float32 cannot hold, with infinity.

    Args:
        dimensions: the homology dimensions k that count.
        rel_tol: tolerance of the matchings: of each W2² at most this fraction is in excess of the exact one
            (`LossTerms.bounds` tells, should a matching ever give up before; see `squared_wasserstein`).
        scale: voxels, one number or one an axis. Of both volumes a Gaussian low-pass of that σ is compared, at points
            as far apart (`low_pass`); the gradient goes through the filter. 1: the volumes as they are, the paper's.
        place: intensity a point of that grid, λ. A pair costs λ² times the squared distance between its critical voxels
            besides, the mean of that of births and that of deaths, so that a class is not paired with one from
            elsewhere. 0: the plain distance, the paper's, which is blind to place.
        max_side: volumes are averaged down until no side is longer, each axis by the smallest integer factor, if given.
        normalisation: "none", as in the paper; "voxels" divides by the number of (averaged) voxels of a volume, so
            that the weight of this loss compares with that of a mean squared error, whatever the size of the patch.
        backend: see `persistence_diagrams`.
    """

    def __init__(
        self,
        dimensions: Sequence[int] = (0, 1, 2),
        rel_tol: float = 0.01,
        scale: int | Sequence[int] = 1,
        place: float = 0.0,
        max_side: int | None = None,
        normalisation: Normalisation = "none",
        backend: Backend = "numba",
    ) -> None:
        super().__init__()
        self.dimensions = checked_dimensions(dimensions)
        if max_side is not None and (not is_integer(max_side) or max_side < 1):
            raise ValueError(f"max_side must be at least 1 voxel, an integer, or None for no limit; got {max_side!r}")
        self.scale = tuple(scale) if isinstance(scale, Sequence) else (scale,) * 3
        if len(self.scale) != 3 or not all(is_integer(step) and step >= 1 for step in self.scale):
            raise ValueError(f"scale must be one integer of at least 1 voxel, or one an axis; got {scale!r}")
        if not is_number(place) or not 0 <= place < math.inf:
            raise ValueError(f"place must be 0 or more and finite, got {place!r}")
        for name, value, choices in (
            ("normalisation", normalisation, Normalisation),
            ("backend", backend, Backend),
        ):
            if value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
        self.rel_tol = checked_tolerance(rel_tol)
        self.max_side = max_side
        self.place = place
        self.normalisation = normalisation
        self.backend = backend

    def forward(
        self,
        reconstruction: Tensor,
        target: Tensor | None,
        target_diagrams: Sequence[Diagrams | Future[Diagrams]] | None = None,
    ) -> Tensor:
        """The loss, a scalar float32 tensor on the reconstruction's device. For the arguments see `submit`."""
        return self.submit(reconstruction, target, target_diagrams).result().loss

    def submit(
        self,
        reconstruction: Tensor,
        target: Tensor | None,
        target_diagrams: Sequence[Diagrams | Future[Diagrams]] | None = None,
    ) -> PendingLoss:
        """Start the work in the background; `.result()` waits for it. A second network, say, can run in the meantime.

        Args:
            reconstruction: [B, C, D, H, W].
            target: the same shape, finite; may be None where `target_diagrams` are given.
            target_diagrams: what `diagrams` or `submit_diagrams` of this loss returned for the target.
        """
        self._check(reconstruction, target)
        values: np.ndarray | Future[np.ndarray]
        with torch.autocast(reconstruction.device.type, enabled=False):
            pooled = self.pooled(reconstruction)
            if target_diagrams is not None:
                values = _to_host(pooled)
            elif target is not None:
                values, target_values = _to_numpy(pooled, self.pooled(target))
                target_diagrams = self._submit_diagrams(_finite_target(target_values), target_values.shape)
            else:
                raise ValueError("give a target or its diagrams")
        count, shape = math.prod(pooled.shape[:2]), tuple(pooled.shape[2:])
        if len(target_diagrams) != count:
            got = len(target_diagrams)
            raise ValueError(f"target_diagrams must hold one entry a sample and channel, {count}; got {got}")
        for theirs in target_diagrams:
            if not isinstance(theirs, Future):
                self._check_diagrams(theirs, shape)
        comparisons = [
            pool.submit(partial(self._compare, k, shape), mine, theirs, size=partial(_number_of_points, k))
            for mine, theirs in zip(self._submit_diagrams(values, pooled.shape), target_diagrams, strict=True)
            for k in self.dimensions
        ]
        return PendingLoss(self, pooled, comparisons)

    def diagrams(self, volumes: Tensor) -> list[Diagrams]:
        """B·C diagrams of [B, C, D, H, W] volumes, averaged down as by this loss; the channels of a sample in a row."""
        return pool.collect(self.submit_diagrams(volumes))

    def submit_diagrams(self, volumes: Tensor) -> list[Future[Diagrams]]:
        """`diagrams` in the background: futures, which `forward` and `submit` take as `target_diagrams`."""
        _check_volumes(volumes, "volumes")
        with torch.autocast(volumes.device.type, enabled=False):
            pooled = self.pooled(volumes)
        values = _to_host(pooled)
        checked = pool.submit(_finite_target, values) if isinstance(values, Future) else _finite_target(values)
        return self._submit_diagrams(checked, pooled.shape)

    def _submit_diagrams(self, values: np.ndarray | Future[np.ndarray], shape: Sequence[int]) -> list[Future[Diagrams]]:
        warm_up()  # here, not in the workers: they would do it all at once
        size = math.prod(shape[2:])
        return [pool.submit(partial(self._diagrams_of, i), values, size=size) for i in range(math.prod(shape[:2]))]

    def _diagrams_of(self, index: int, values: np.ndarray) -> Diagrams:
        volume = values[np.unravel_index(index, values.shape[:2])]
        if not np.isfinite(volume).all():
            raise _NotFiniteError
        return persistence_diagrams(volume, self.backend, dimensions=self.dimensions)

    def _compare(self, k: int, shape: tuple[int, ...], ours: Diagrams, theirs: Diagrams) -> _Comparison:
        self._check_diagrams(theirs, shape)
        a, b = _of_dimension(ours, k), _of_dimension(theirs, k)
        return _comparison(a, b, self.rel_tol, (self._places(a, shape), self._places(b, shape)))

    def _places(self, diagram: PersistenceDiagram, shape: Sequence[int]) -> np.ndarray:
        """[n, 2 · len(shape)] birth and death voxels times λ, over √2, as the mean of both counts; [n, 0] for λ = 0."""
        if not self.place:
            return np.zeros((len(diagram), 0))
        voxels = np.stack([diagram.birth_voxel, np.maximum(diagram.death_voxel, 0)], axis=1)  # −1: never dies
        return self.place * np.sqrt(0.5) * np.hstack(np.unravel_index(voxels, shape))

    def _check_diagrams(self, diagrams: Diagrams, shape: tuple[int, ...]) -> None:
        """Raise ValueError where these are not the diagrams of a volume of this shape."""
        if not isinstance(diagrams, Sequence) or not all(isinstance(d, PersistenceDiagram) for d in diagrams):
            raise ValueError(
                "target_diagrams must hold one tuple of diagrams for each sample and channel, as `diagrams` returns "
                f"them; got {type(diagrams).__name__}"
            )
        for k in self.dimensions:
            diagram = _of_dimension(diagrams, k)
            if diagram.superlevel:
                raise ValueError("target_diagrams are of superlevel sets, and this loss compares sublevel sets")
            if k == 0 and np.count_nonzero(diagram.death_voxel < 0) != 1:
                raise ValueError("target_diagrams must be whole in dimension 0, with the class that never dies")
            if diagram.shape not in (None, shape):
                raise ValueError(
                    f"target_diagrams are of a volume of shape {list(diagram.shape)}, and the reconstruction's is "
                    f"{list(shape)}: make them with this loss, whose scale is {self.scale} and max_side "
                    f"{self.max_side}"
                )

    def pooled(self, volumes: Tensor) -> Tensor:
        """[B, C, d, h, w], what of [B, C, D, H, W] volumes is compared."""
        volumes = low_pass(volumes.float(), self.scale)
        return volumes if self.max_side is None else average_pool(volumes, self.max_side)

    def _check(self, reconstruction: Tensor, target: Tensor | None) -> None:
        _check_volumes(reconstruction, "reconstruction")
        if target is not None:
            _check_volumes(target, "target")
            if target.shape != reconstruction.shape:
                shapes = list(reconstruction.shape), list(target.shape)
                raise ValueError(f"reconstruction and target differ in shape: {shapes[0]} and {shapes[1]}")


def _of_dimension(diagrams: Diagrams, k: int) -> PersistenceDiagram:
    for i, diagram in enumerate(diagrams):
        if k == (i if diagram.dimension is None else diagram.dimension):
            return diagram
    raise ValueError(f"target_diagrams hold no diagram of dimension {k}: make them with the dimensions of this loss")


def _number_of_points(k: int, ours: Diagrams, theirs: Diagrams) -> int:
    """How long a comparison takes. Diagrams, on which three of them wait, come first: a volume has more voxels."""
    return len(_of_dimension(ours, k)) + len(_of_dimension(theirs, k))


@dataclass(frozen=True, eq=False)
class PendingLoss:
    """A loss that is being computed.

    Work that has not begun is given up when nobody holds this object any more.
    """

    settings: TopologicalLoss
    pooled: Tensor  # [B, C, d, h, w], on its device and in the graph
    comparisons: list[Future[_Comparison]]

    @property
    def weight(self) -> float:
        """Of a squared distance in the loss."""
        voxels = math.prod(self.pooled.shape[2:]) if self.settings.normalisation == "voxels" else 1
        return 0.5 / math.prod(self.pooled.shape[:2]) / voxels

    def result(self) -> LossTerms:
        """Wait; raises what a worker raised."""
        dimensions = self.settings.dimensions
        try:
            comparisons = pool.collect(self.comparisons)
        except _NotFiniteError:
            return LossTerms((self.pooled * torch.nan).sum(), dict.fromkeys(dimensions, np.nan), (np.nan, np.nan))
        volumes = np.zeros((math.prod(self.pooled.shape[:2]), math.prod(self.pooled.shape[2:])))
        weight = self.weight
        for i, comparison in enumerate(comparisons):
            slopes = np.bincount(comparison.voxels, weight * comparison.slopes, minlength=volumes.shape[1])
            volumes[i // len(dimensions)] += slopes
        per_dimension = {
            k: float(sum(weight * c.cost for c in comparisons[i :: len(dimensions)])) for i, k in enumerate(dimensions)
        }
        value, lower = sum(per_dimension.values()), float(sum(weight * c.lower for c in comparisons))
        loss = self._differentiable(value, volumes.reshape(self.pooled.shape))
        return LossTerms(loss, per_dimension, (lower, value))

    def _differentiable(self, value: float, gradient: np.ndarray) -> Tensor:
        if value > torch.finfo(torch.float32).max:
            value, gradient = math.inf, np.full_like(gradient, math.inf)
        slopes, device = torch.from_numpy(gradient.astype(np.float32)), self.pooled.device
        slopes = slopes.pin_memory().to(device, non_blocking=True) if _has_streams(device) else slopes.to(device)
        return _KnownGradient.apply(self.pooled, value, slopes)


class _NotFiniteError(Exception):
    """A reconstruction with NaN or infinity, which has no diagram."""


class _KnownGradient(torch.autograd.Function):
    """A scalar of known value and gradient in `volume`. Dense, without scatter: deterministic on a GPU too."""

    @staticmethod
    def forward(ctx: Any, volume: Tensor, value: float, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return torch.full((), value, dtype=volume.dtype, device=volume.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None


class _Comparison(NamedTuple):
    """Two diagrams compared: a matching's cost, what none can beat, d cost / d voxel (voxels may repeat)."""

    cost: float
    lower: float
    voxels: np.ndarray
    slopes: np.ndarray


def _comparison(
    ours: PersistenceDiagram, theirs: PersistenceDiagram, rel_tol: float, places: tuple[np.ndarray, np.ndarray]
) -> _Comparison:
    """W2² by a matching within `rel_tol`, and its slopes in `ours`."""
    result = squared_wasserstein(ours, theirs, rel_tol, places=places)
    i, j = result.matching.T
    alone, (i, j) = i[j < 0], result.matching[(i >= 0) & (j >= 0)].T
    dying = ours.death_voxel[i] >= 0
    # A pair costs (birth − birth')² + (death − death')²; a point alone (death − birth)²/2; the two classes that never
    # die are paired with each other, at (birth − birth')²: nothing else would hold the reconstruction's minimum. What
    # places add depends on no intensity.
    slopes = [
        (ours.birth_voxel[i], 2 * (ours.birth[i] - theirs.birth[j])),
        (ours.death_voxel[i[dying]], 2 * (ours.death[i[dying]] - theirs.death[j[dying]])),
        (ours.birth_voxel[alone], ours.birth[alone] - ours.death[alone]),
        (ours.death_voxel[alone], ours.death[alone] - ours.birth[alone]),
    ]
    return _Comparison(result.cost, result.lower_bound, *map(np.concatenate, zip(*slopes, strict=True)))


def average_pool(volumes: Tensor, max_side: int) -> Tensor:
    """[..., D, H, W] averaged over boxes, each axis by the smallest integer factor that makes it at most `max_side`.

    Where a factor does not divide a side, the last box is smaller: every voxel counts in exactly one box. Written out
    because the backward of PyTorch's own average pooling in 3D is not deterministic on CUDA.
    """
    for axis in (-3, -2, -1):
        side = volumes.shape[axis]
        factor = -(-side // max_side)
        if factor == 1:
            continue
        boxes = -(-side // factor)
        after = [0, 0] * (-1 - axis) + [0, boxes * factor - side]
        sizes = torch.full((boxes,), factor, dtype=volumes.dtype, device=volumes.device)
        sizes[-1] -= boxes * factor - side
        sums = pad(volumes, after).unflatten(axis, (boxes, factor)).sum(axis)
        volumes = sums / sizes.view(-1, *[1] * (-1 - axis))
    return volumes


def _check_volumes(volumes: Tensor, name: str) -> None:
    if not isinstance(volumes, Tensor) or volumes.is_complex():
        kind = volumes.dtype if isinstance(volumes, Tensor) else type(volumes).__name__
        raise TypeError(f"{name} must be a tensor of real numbers; got {kind}")
    if volumes.ndim != 5 or volumes.numel() == 0:
        raise ValueError(f"{name} must be [B, C, D, H, W] and not empty; got shape {list(volumes.shape)}")


def _finite_target(values: np.ndarray) -> np.ndarray:
    for b, c in np.ndindex(values.shape[:2]):
        if not np.isfinite(values[b, c]).all():
            raise ValueError(
                f"the target holds NaN or infinity in sample {b}, channel {c}: it has no persistence diagram; "
                "look for the image with the bad values and mend or leave it out"
            )
    return values


def _to_numpy(*volumes: Tensor) -> list[np.ndarray]:
    """Tensors of one shape to host memory, in one transfer where they are on one device."""
    detached = [v.detach() for v in volumes]
    if len({v.device for v in detached}) == 1:
        return list(torch.stack(detached).cpu().numpy())
    return [v.cpu().numpy().copy() for v in detached]


def _to_host(volumes: Tensor) -> np.ndarray | Future[np.ndarray]:
    """A copy in host memory, since the caller may change the tensor in the meantime; of a CUDA device on its way there,
    after what computes it."""
    device = volumes.device
    if not _has_streams(device):
        return volumes.detach().cpu().numpy().copy()
    accelerator = getattr(torch, device.type)
    copy = volumes.detach().to("cpu", non_blocking=True)  # which PyTorch pins
    event = accelerator.Event(blocking=True)  # who waits sleeps
    event.record(accelerator.current_stream(device))
    # Of size 0: threads have nothing better to do when they come to wait.
    return pool.submit(_arrived, copy, event, partial(accelerator.set_device, device))


def _has_streams(device: torch.device) -> bool:
    """Whether its work is queued, and the host goes on meanwhile."""
    return device.type not in ("cpu", "mps")


def _arrived(copy: Tensor, event: torch.cuda.Event, set_device: Callable[[], None]) -> np.ndarray:
    set_device()  # a thread begins with the first, where a process of another GPU has no business
    event.synchronize()
    return copy.numpy()

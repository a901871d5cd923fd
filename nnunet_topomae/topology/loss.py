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
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from . import pool
from ._arrays import checked_dimensions, checked_tolerance, is_integer, is_number
from ._engines import warm_up
from .persistence import Backend, PersistenceDiagram, persistence_diagrams
from .wasserstein import WassersteinResult, dropped_bound, lower_bound, squared_wasserstein

Diagrams = tuple[PersistenceDiagram, ...]
Essential = Literal["match", "ignore"]
Normalisation = Literal["none", "voxels"]


class LossTerms(NamedTuple):
    """The loss and what it is made of.

    Attributes:
        loss: scalar tensor, the sum of `per_dimension`.
        per_dimension: for each homology dimension its part of the loss, for a log.
        bounds: (lower, upper), certified: with exact matchings and all classes (`min_persistence` 0) it lies between.
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
        max_side: volumes are averaged down until no side is longer, each axis by the smallest integer factor, if given.
        window: volumes are cut, in full resolution, into boxes with sides of at most this many voxels, if given. Each
            box is then a volume of its own, and the loss the mean over them too. All are independent tasks.
        min_persistence: classes with death − birth below this (in units of intensity) are left out of both diagrams;
            `LossTerms.bounds` says what that may cost.
        essential: each volume has one class that never dies, the component of its global minimum. It cannot go to the
            diagonal at finite cost, so "match" pairs the two and adds the squared difference of their births to
            dimension 0; without it nothing would hold the reconstruction's minimum to the target's. "ignore" leaves
            the two out.
        normalisation: "none", as in the paper; "voxels" divides by the number of (averaged) voxels of a volume or box,
            so that the weight of this loss compares with that of a mean squared error, whatever the size of the patch.
        backend: see `persistence_diagrams`.
    """

    def __init__(
        self,
        dimensions: Sequence[int] = (0, 1, 2),
        rel_tol: float = 0.01,
        max_side: int | None = None,
        min_persistence: float = 0.0,
        essential: Essential = "match",
        normalisation: Normalisation = "none",
        backend: Backend = "numba",
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.dimensions = checked_dimensions(dimensions)
        for name, side in (("max_side", max_side), ("window", window)):
            if side is not None and (not is_integer(side) or side < 1):
                raise ValueError(f"{name} must be at least 1 voxel, an integer, or None for no limit; got {side!r}")
        if max_side is not None and window is not None:
            raise ValueError("windows are of full resolution: give window or max_side, not both")
        if not is_number(min_persistence) or min_persistence < 0:
            raise ValueError(f"min_persistence must be 0 or more, got {min_persistence!r}")
        for name, value, choices in (
            ("essential", essential, Essential),
            ("normalisation", normalisation, Normalisation),
            ("backend", backend, Backend),
        ):
            if value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
        self.rel_tol = checked_tolerance(rel_tol)
        self.max_side = max_side
        self.window = window
        self.min_persistence = min_persistence
        self.match_essential = essential == "match"
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
            pooled = self._pooled(reconstruction)
            if target_diagrams is not None:
                values = _to_host(pooled)
            elif target is not None:
                values, target_values = _to_numpy(pooled, self._pooled(target))
                target_diagrams = self._submit_diagrams(_finite_target(target_values), target_values.shape)
            else:
                raise ValueError("give a target or its diagrams")
        shapes = self._box_shapes(pooled.shape)
        if len(target_diagrams) != len(shapes):
            each = "sample and channel" if self.window is None else "sample, channel and window"
            raise ValueError(f"target_diagrams must hold one entry a {each}, {len(shapes)}; got {len(target_diagrams)}")
        for shape, theirs in zip(shapes, target_diagrams, strict=True):
            if not isinstance(theirs, Future):
                self._check_diagrams(theirs, shape)
        ours = self._submit_diagrams(values, pooled.shape)
        comparisons = [
            pool.submit(partial(self._compare, k, shape), mine, theirs, size=partial(_number_of_points, k))
            for shape, mine, theirs in zip(shapes, ours, target_diagrams, strict=True)
            for k in self.dimensions
        ]
        return PendingLoss(self, pooled, comparisons)

    def diagrams(self, volumes: Tensor) -> list[Diagrams]:
        """The diagrams of [B, C, D, H, W] volumes, averaged down or cut as by this loss.

        B·C entries, channels in a row, or with windows as many for each, in C order.
        """
        return pool.collect(self.submit_diagrams(volumes))

    def submit_diagrams(self, volumes: Tensor) -> list[Future[Diagrams]]:
        """`diagrams` in the background: futures, which `forward` and `submit` take as `target_diagrams`."""
        values = self._target_values(volumes)
        return self._submit_diagrams(values, values.shape)

    def diagrams_in_worker(self, volumes: Tensor) -> list[Diagrams]:
        """`diagrams`, computed by the calling thread alone: for the workers of a data loader, which are many already.

        What it returns can be pickled. It needs no network, and the loss that takes it as `target_diagrams` may be
        another one of the same settings.
        """
        boxes = self._boxes(self._target_values(volumes))
        return [persistence_diagrams(box, self.backend, dimensions=self.dimensions) for box in boxes]

    def _target_values(self, volumes: Tensor) -> np.ndarray:
        _check_volumes(volumes, "volumes")
        with torch.autocast(volumes.device.type, enabled=False):
            (values,) = _to_numpy(self._pooled(volumes))
        return _finite_target(values)

    def _submit_diagrams(self, values: np.ndarray | Future[np.ndarray], shape: Sequence[int]) -> list[Future[Diagrams]]:
        warm_up()  # here, not in the workers: they would do it all at once
        return [
            pool.submit(partial(self._diagrams_of_box, i), values, size=math.prod(box))
            for i, box in enumerate(self._box_shapes(shape))
        ]

    def _diagrams_of_box(self, index: int, values: np.ndarray) -> Diagrams:
        box = self._boxes(values)[index]
        if not np.isfinite(box).all():
            raise _NotFiniteError
        return persistence_diagrams(box, self.backend, dimensions=self.dimensions)

    def _boxes(self, values: np.ndarray) -> list[np.ndarray]:
        """Views of [B, C, d, h, w]: for each sample and channel the whole volume, or its windows in C order."""
        cuts = window_slices(values.shape[2:], self.window)
        return [volume[cut] for volume in values.reshape(-1, *values.shape[2:]) for cut in cuts]

    def _box_shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Those of `_boxes` of values of this shape."""
        cuts = window_slices(shape[2:], self.window)
        return [tuple(side.stop - side.start for side in cut) for cut in cuts] * math.prod(shape[:2])

    def _compare(self, k: int, shape: tuple[int, ...], ours: Diagrams, theirs: Diagrams) -> _Comparison:
        self._check_diagrams(theirs, shape)
        a, b = _of_dimension(ours, k), _of_dimension(theirs, k)
        finite = _compare_finite(a.finite(), b.finite(), self.rel_tol, self.min_persistence)
        return finite.plus(_compare_essential(a, b)) if k == 0 and self.match_essential else finite

    def _check_diagrams(self, diagrams: Diagrams, shape: tuple[int, ...]) -> None:
        """Raise ValueError where these are not the diagrams of a volume or window of this shape."""
        if not isinstance(diagrams, Sequence) or not all(isinstance(d, PersistenceDiagram) for d in diagrams):
            raise ValueError(
                "target_diagrams must hold one tuple of diagrams for each sample and channel, as `diagrams` returns "
                f"them; got {type(diagrams).__name__}"
            )
        for k in self.dimensions:
            diagram = _of_dimension(diagrams, k)
            if diagram.superlevel:
                raise ValueError("target_diagrams are of superlevel sets, and this loss compares sublevel sets")
            if diagram.shape not in (None, shape):
                raise ValueError(
                    f"target_diagrams are of a volume of shape {list(diagram.shape)}, and the reconstruction's is "
                    f"{list(shape)}: make them with this loss, whose max_side is {self.max_side} and window "
                    f"{self.window}"
                )

    def _pooled(self, volumes: Tensor) -> Tensor:
        volumes = volumes.float()
        return volumes if self.max_side is None else average_pool(volumes, self.max_side)

    def _check(self, reconstruction: Tensor, target: Tensor | None) -> None:
        _check_volumes(reconstruction, "reconstruction")
        if target is not None:
            _check_volumes(target, "target")
            if target.shape != reconstruction.shape:
                shapes = list(reconstruction.shape), list(target.shape)
                raise ValueError(f"reconstruction and target differ in shape: {shapes[0]} and {shapes[1]}")


def window_slices(shape: Sequence[int], side: int | None) -> list[tuple[slice, ...]]:
    """Cut a volume into boxes as equal as can be, with sides of at most `side` voxels; None leaves it whole."""
    axes = []
    for length in shape:
        count = 1 if side is None else -(-length // side)
        ends = [length * i // count for i in range(count + 1)]
        axes.append([slice(*pair) for pair in zip(ends[:-1], ends[1:], strict=True)])
    return list(product(*axes))


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

    def result(self) -> LossTerms:
        """Wait; raises what a worker raised."""
        dimensions = self.settings.dimensions
        try:
            comparisons = pool.collect(self.comparisons)
        except _NotFiniteError:
            return LossTerms((self.pooled * torch.nan).sum(), dict.fromkeys(dimensions, np.nan), (np.nan, np.nan))
        gradient = np.zeros(self.pooled.shape)
        boxes = self.settings._boxes(gradient)  # views: what is written there is written to the whole
        scale = [0.5 / len(boxes) / (b.size if self.settings.normalisation == "voxels" else 1) for b in boxes]
        weighted = list(zip(np.repeat(scale, len(dimensions)), comparisons, strict=True))
        for i, (weight, comparison) in enumerate(weighted):
            box = boxes[i // len(dimensions)]
            slopes = np.bincount(comparison.voxels, weight * comparison.slopes, minlength=box.size)
            box += slopes.reshape(box.shape)
        per_dimension = {
            k: float(sum(w * c.cost for w, c in weighted[i :: len(dimensions)])) for i, k in enumerate(dimensions)
        }
        bounds = float(sum(w * c.lower for w, c in weighted)), float(sum(w * c.upper for w, c in weighted))
        return LossTerms(self._differentiable(sum(per_dimension.values()), gradient), per_dimension, bounds)

    def _differentiable(self, value: float, gradient: np.ndarray) -> Tensor:
        if value > torch.finfo(torch.float32).max:
            value, gradient = math.inf, np.full_like(gradient, math.inf)
        slopes = torch.from_numpy(gradient.astype(np.float32)).to(self.pooled.device)
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
    """Two diagrams compared: a matching's cost, certified bounds of W2², d cost / d voxel (voxels may repeat)."""

    cost: float
    lower: float
    upper: float
    voxels: np.ndarray
    slopes: np.ndarray

    def plus(self, other: _Comparison) -> _Comparison:
        return _Comparison(
            self.cost + other.cost,
            self.lower + other.lower,
            self.upper + other.upper,
            np.concatenate([self.voxels, other.voxels]),
            np.concatenate([self.slopes, other.slopes]),
        )


def _compare_finite(
    ours: PersistenceDiagram, theirs: PersistenceDiagram, rel_tol: float, min_persistence: float
) -> _Comparison:
    """W2² of the classes that die, by a matching within `rel_tol`, and its gradient in the voxels of `ours`."""
    kept, kept_theirs = (d.where(d.persistence >= min_persistence) for d in (ours, theirs))
    result = squared_wasserstein(kept.points, kept_theirs.points, rel_tol)
    i, j = result.matching.T
    pairs = (i >= 0) & (j >= 0)
    to_diagonal = i[j < 0]
    i, j = i[pairs], j[pairs]
    # A pair costs (birth − birth')² + (death − death')²; a point alone (death − birth)²/2.
    persistence = kept.death[to_diagonal] - kept.birth[to_diagonal]
    lower, upper = result.lower_bound, result.cost
    if len(kept) < len(ours) or len(kept_theirs) < len(theirs):
        lower, upper = _bounds_with_dropped(ours, theirs, result, min_persistence)
    return _Comparison(
        cost=result.cost,
        lower=lower,
        upper=upper,
        voxels=np.concatenate(
            [kept.birth_voxel[i], kept.death_voxel[i], kept.birth_voxel[to_diagonal], kept.death_voxel[to_diagonal]]
        ),
        slopes=np.concatenate(
            [
                2 * (kept.birth[i] - kept_theirs.birth[j]),
                2 * (kept.death[i] - kept_theirs.death[j]),
                -persistence,
                persistence,
            ]
        ),
    )


def _bounds_with_dropped(
    ours: PersistenceDiagram, theirs: PersistenceDiagram, result: WassersteinResult, min_persistence: float
) -> tuple[float, float]:
    """Bounds of W2(A, B)² for whole diagrams from a result for what is left of them, A' and B', after dropping.

    Above: what was dropped can go to the diagonal. Below: the potentials of A', raised over all points; or, with
    W2(A, A') ≤ δ_A and W2(B, B') ≤ δ_B (`dropped_bound`), the triangle inequality, W2(A, B) ≥ W2(A', B') − δ_A − δ_B.
    """
    dropped = [dropped_bound(diagram, min_persistence) for diagram in (ours, theirs)]
    potentials = np.full(len(ours), -np.inf)
    potentials[ours.persistence >= min_persistence] = result.potentials[0]
    by_triangle = max(0.0, np.sqrt(result.lower_bound) - sum(dropped)) ** 2
    lower = max(lower_bound(ours.points, theirs.points, potentials), float(by_triangle))
    return lower, result.cost + sum(d**2 for d in dropped)


def _compare_essential(ours: PersistenceDiagram, theirs: PersistenceDiagram) -> _Comparison:
    """(birth − birth')² of the two classes that never die, which are last in dimension 0."""
    difference = ours.birth[-1] - theirs.birth[-1]
    cost = float(difference**2)
    return _Comparison(cost, cost, cost, ours.birth_voxel[-1:], np.array([2 * difference]))


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
    return [v.cpu().numpy() for v in detached]


def _to_host(volumes: Tensor) -> np.ndarray | Future[np.ndarray]:
    """A tensor in host memory; of a CUDA device on its way there, after what computes it."""
    if not volumes.is_cuda:
        return volumes.detach().cpu().numpy()
    copy = volumes.detach().to("cpu", non_blocking=True)  # which PyTorch pins
    event = torch.cuda.Event(blocking=True)  # who waits sleeps
    event.record(torch.cuda.current_stream(volumes.device))
    return pool.submit(_arrived, copy, event)  # of size 0: threads have nothing better to do when they come to wait


def _arrived(copy: Tensor, event: torch.cuda.Event) -> np.ndarray:
    event.synchronize()
    return copy.numpy()

"""The topological loss: how far a reconstruction's persistence diagrams are from the target's, differentiably.

    L(x, x̂) = 1/2 · Σ_k W2(D_k(x), D_k(x̂))²                       (Gu et al., arXiv 2406.10519)

D_k is the persistence diagram of sublevel sets in homology dimension k (`persistence.py`), W2 the 2-Wasserstein
distance with diagonal and Euclidean ground metric (`wasserstein.py`). Birth and death are values of single voxels, so
along a fixed matching the cost is a quadratic function of those voxels, and its gradient is that of W2² wherever the
values are distinct and the optimal matching is unique, which is almost everywhere (Carrière et al., *Optimizing
persistent homology based functions*, ICML 2021).

Diagrams and matchings are computed on the CPU, by the threads of `pool`; value and gradient come back as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from . import persistence, pool, wasserstein
from .persistence import Backend, PersistenceDiagram, persistence_diagrams
from .wasserstein import squared_wasserstein

Diagrams = tuple[PersistenceDiagram, PersistenceDiagram, PersistenceDiagram]
Essential = Literal["match", "ignore"]
Normalisation = Literal["none", "voxels"]


def warm_up() -> None:
    """Compile the engines, or load them from Numba's cache, so that the first step is as fast as the next."""
    persistence.warm_up()
    wasserstein.warm_up()


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
    which a GradScaler skips.

    Args:
        dimensions: the homology dimensions k that count.
        rel_tol: tolerance of the matchings: of each W2² at most this fraction is in excess of the exact one
            (`LossTerms.bounds` tells, should a matching ever give up before; see `squared_wasserstein`).
        max_side: volumes are averaged down until no side is longer, each axis by the smallest integer factor, if given.
        min_persistence: classes with death − birth below this (in units of intensity) are left out of both diagrams;
            `LossTerms.bounds` says what that may cost.
        essential: each volume has one class that never dies, the component of its global minimum. It cannot go to the
            diagonal at finite cost, so "match" pairs the two and adds the squared difference of their births to
            dimension 0; without it nothing would hold the reconstruction's minimum to the target's. "ignore" leaves
            the two out.
        normalisation: "none", as in the paper; "voxels" divides by the number of (averaged) voxels of a volume, so that
            the weight of this loss compares with that of a mean squared error, whatever the size of the patch.
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
    ) -> None:
        super().__init__()
        self.dimensions = tuple(dimensions)
        distinct = set(self.dimensions)
        if not distinct or not distinct <= {0, 1, 2} or len(distinct) < len(self.dimensions):
            raise ValueError(f"dimensions must be some of 0, 1, 2, each once; got {self.dimensions}")
        if not rel_tol > 0:
            raise ValueError(f"rel_tol must be positive, got {rel_tol}")
        if max_side is not None and max_side < 1:
            raise ValueError(f"max_side must be at least 1 voxel, or None for no limit; got {max_side}")
        if not min_persistence >= 0:
            raise ValueError(f"min_persistence must be 0 or more, got {min_persistence}")
        for name, value, choices in (
            ("essential", essential, Essential),
            ("normalisation", normalisation, Normalisation),
            ("backend", backend, Backend),
        ):
            if value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
        self.rel_tol = rel_tol
        self.max_side = max_side
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
        self._check(reconstruction, target, target_diagrams)
        with torch.autocast(reconstruction.device.type, enabled=False):
            pooled = self._pooled(reconstruction)
            if target_diagrams is None:
                values, target_values = _to_numpy(pooled, self._pooled(target))
                target_diagrams = self._submit_diagrams(_finite_target(target_values))
            else:
                (values,) = _to_numpy(pooled)
        if not np.isfinite(values).all():
            return PendingLoss(self, pooled, None)
        reconstruction_diagrams = self._submit_diagrams(values)
        comparisons = [
            pool.submit(self._compare, k, ours, theirs)
            for ours, theirs in zip(reconstruction_diagrams, target_diagrams, strict=True)
            for k in self.dimensions
        ]
        return PendingLoss(self, pooled, comparisons)

    def diagrams(self, volumes: Tensor) -> list[Diagrams]:
        """The diagrams of [B, C, D, H, W] volumes, averaged down as by this loss: B·C entries, channels in a row."""
        return pool.collect(self.submit_diagrams(volumes))

    def submit_diagrams(self, volumes: Tensor) -> list[Future[Diagrams]]:
        """`diagrams` in the background: futures, which `forward` and `submit` take as `target_diagrams`."""
        _check_volumes(volumes, "volumes")
        (values,) = _to_numpy(self._pooled(volumes))
        return self._submit_diagrams(_finite_target(values))

    def _submit_diagrams(self, values: np.ndarray) -> list[Future[Diagrams]]:
        return [pool.submit(persistence_diagrams, v, self.backend) for v in values.reshape(-1, *values.shape[2:])]

    def _compare(self, k: int, ours: Diagrams | Future[Diagrams], theirs: Diagrams | Future[Diagrams]) -> _Comparison:
        # Both were submitted before this task, so waiting for them here cannot block the pool (see pool.submit).
        ours, theirs = (d.result() if isinstance(d, Future) else d for d in (ours, theirs))
        finite = _compare_finite(ours[k].finite(), theirs[k].finite(), self.rel_tol, self.min_persistence)
        return finite.plus(_compare_essential(ours[0], theirs[0])) if k == 0 and self.match_essential else finite

    def _pooled(self, volumes: Tensor) -> Tensor:
        volumes = volumes.float()
        return volumes if self.max_side is None else average_pool(volumes, self.max_side)

    def _check(self, reconstruction: Tensor, target: Tensor | None, diagrams: Sequence | None) -> None:
        _check_volumes(reconstruction, "reconstruction")
        if target is None and diagrams is None:
            raise ValueError("give a target or its diagrams")
        if target is not None and target.shape != reconstruction.shape:
            shapes = list(reconstruction.shape), list(target.shape)
            raise ValueError(f"reconstruction and target differ in shape: {shapes[0]} and {shapes[1]}")
        count = reconstruction.shape[0] * reconstruction.shape[1]
        if diagrams is not None and len(diagrams) != count:
            raise ValueError(f"target_diagrams must hold one entry a sample and channel, {count}; got {len(diagrams)}")


@dataclass(frozen=True)
class PendingLoss:
    """A loss that is being computed. `comparisons` is None where the reconstruction is not finite."""

    settings: TopologicalLoss
    pooled: Tensor  # [B, C, d, h, w], on its device and in the graph
    comparisons: list[Future[_Comparison]] | None

    def result(self) -> LossTerms:
        """Wait; raises what a worker raised."""
        dimensions = self.settings.dimensions
        if self.comparisons is None:
            return LossTerms((self.pooled * torch.nan).sum(), dict.fromkeys(dimensions, np.nan), (np.nan, np.nan))
        comparisons = pool.collect(self.comparisons)
        count, voxels = self.pooled[:, :, 0, 0, 0].numel(), self.pooled[0, 0].numel()
        factor = 0.5 / count / (voxels if self.settings.normalisation == "voxels" else 1)
        gradient = np.zeros((count, voxels))
        for i, comparison in enumerate(comparisons):
            row = gradient[i // len(dimensions)]
            row += np.bincount(comparison.voxels, comparison.slopes, minlength=voxels)
        gradient = torch.from_numpy((factor * gradient).astype(np.float32)).view(self.pooled.shape)
        per_dimension = {
            k: factor * sum(c.cost for c in comparisons[i :: len(dimensions)]) for i, k in enumerate(dimensions)
        }
        loss = _KnownGradient.apply(self.pooled, sum(per_dimension.values()), gradient.to(self.pooled.device))
        bounds = factor * sum(c.lower for c in comparisons), factor * sum(c.upper for c in comparisons)
        return LossTerms(loss, per_dimension, bounds)


class _KnownGradient(torch.autograd.Function):
    """A scalar of known value and gradient in `volume`. Dense, without scatter: deterministic on a GPU too."""

    @staticmethod
    def forward(ctx, volume: Tensor, value: float, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return torch.full((), value, dtype=volume.dtype, device=volume.device)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None]:
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
    """W2² of the classes that die, by a matching within `rel_tol`, and its gradient in the voxels of `ours`.

    With A', B' what is left of A, B after dropping, and W2(A, A') ≤ δ_A, W2(B, B') ≤ δ_B (`dropped_bound`):
    W2(A, B) ≥ W2(A', B') − δ_A − δ_B by the triangle inequality, and W2(A, B)² ≤ W2(A', B')² + δ_A² + δ_B², as what was
    dropped can go to the diagonal.
    """
    dropped = [dropped_bound(diagram, min_persistence) for diagram in (ours, theirs)]
    ours, theirs = _at_least(ours, min_persistence), _at_least(theirs, min_persistence)
    result = squared_wasserstein(ours.points, theirs.points, rel_tol)
    i, j = result.matching.T
    pairs = (i >= 0) & (j >= 0)
    to_diagonal = i[j < 0]
    i, j = i[pairs], j[pairs]
    # A pair costs (birth − birth')² + (death − death')²; a point alone (death − birth)²/2.
    persistence = ours.death[to_diagonal] - ours.birth[to_diagonal]
    return _Comparison(
        cost=result.cost,
        lower=float(max(0.0, np.sqrt(result.lower_bound) - sum(dropped)) ** 2),
        upper=result.cost + sum(d**2 for d in dropped),
        voxels=np.concatenate(
            [ours.birth_voxel[i], ours.death_voxel[i], ours.birth_voxel[to_diagonal], ours.death_voxel[to_diagonal]]
        ),
        slopes=np.concatenate(
            [2 * (ours.birth[i] - theirs.birth[j]), 2 * (ours.death[i] - theirs.death[j]), -persistence, persistence]
        ),
    )


def _compare_essential(ours: PersistenceDiagram, theirs: PersistenceDiagram) -> _Comparison:
    """(birth − birth')² of the two classes that never die, which are last in dimension 0."""
    difference = ours.birth[-1] - theirs.birth[-1]
    cost = float(difference**2)
    return _Comparison(cost, cost, cost, ours.birth_voxel[-1:], np.array([2 * difference]))


def dropped_bound(diagram: PersistenceDiagram, min_persistence: float) -> float:
    """Upper bound of W2 between a diagram and what is left without the classes below `min_persistence`.

    It is the cost of sending them to the diagonal: √(Σ (death − birth)²/2).
    """
    persistence = diagram.death - diagram.birth
    return float(np.sqrt(0.5 * np.square(persistence[persistence < min_persistence]).sum()))


def _at_least(diagram: PersistenceDiagram, min_persistence: float) -> PersistenceDiagram:
    keep = diagram.death - diagram.birth >= min_persistence
    return PersistenceDiagram(
        diagram.birth[keep], diagram.death[keep], diagram.birth_voxel[keep], diagram.death_voxel[keep]
    )


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
    volumes = [v.detach() for v in volumes]
    if len({v.device for v in volumes}) == 1:
        return list(torch.stack(volumes).cpu().numpy())
    return [v.cpu().numpy() for v in volumes]

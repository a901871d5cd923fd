"""Has a completed crop the shape of the true one, and what does the topological term do about it?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from nnunet_topomae.losses.topology import scale_of_tokens
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.topology import Diagrams, TopologicalLoss, batched_persistence_diagrams, betti_curve, pool
from nnunet_topomae.topology.low_pass import low_pass

LEVELS = (0.5, 0.7, 0.9)  # of the voxels lie below
POINTS = 4  # a side of a token, of the low-pass: what is finer cannot be known of what is hidden


class BettiNumbersOfLevels:
    """Betti numbers of crops, low-passed, above the levels that part their voxels as `LEVELS` says.

    Args:
        image: [B, C, D, H, W], the true crops.
        geometry: whose tokens are hidden.
    """

    def __init__(self, image: torch.Tensor, geometry: Geometry) -> None:
        self.scale = scale_of_tokens(geometry, POINTS)
        volumes = self._low_passed(image)
        self.levels = [np.quantile(volume, LEVELS) for volume in volumes]
        self.numbers = self._numbers(volumes)

    def error(self, completed: torch.Tensor) -> float:
        """Σ_k |β_k − β_k of the true crop| at the levels of the true crop, mean over levels, crops and channels."""
        return float(np.abs(self._numbers(self._low_passed(completed)) - self.numbers).sum(axis=1).mean())

    def _low_passed(self, volumes: torch.Tensor) -> np.ndarray:
        return low_pass(volumes.detach().cpu().float(), self.scale).flatten(0, 1).numpy()

    def _numbers(self, volumes: np.ndarray) -> np.ndarray:
        """[B · C, 3, levels]."""
        diagrams = batched_persistence_diagrams(volumes, superlevel=True)
        return np.array(
            [[betti_curve(of_k, at) for of_k in of_volume] for of_volume, at in zip(diagrams, self.levels, strict=True)]
        )


def hidden_share(
    loss: TopologicalLoss, completed: torch.Tensor, diagrams: Sequence[Diagrams], hidden: torch.Tensor
) -> float:
    """Part of the topological loss that hangs on hidden voxels: what a network can do something about.

    The rest is classes of the image that nothing answers, classes whose critical voxels it shows, and, with a place,
    how far apart matched classes lie. A coordinate that is off by δ costs δ² and pulls at its voxel by 2 δ, so that
    slopes tell the costs; at the points of a low-pass the voxels around count as they weigh there.

    Args:
        completed: [B, C, D, H, W].
        diagrams: of the true crops, as of `loss.diagrams`.
        hidden: [B, 1, D, H, W] bool.
    """
    if not completed.isfinite().all():
        return math.nan
    # Of each volume one a dimension.
    comparisons = pool.collect(loss.submit(completed.detach(), None, diagrams).comparisons)
    of_hidden = loss.pooled(hidden.expand_as(completed).float()).flatten(2).flatten(0, 1).cpu().numpy()
    of_hidden = of_hidden.repeat(len(loss.dimensions), axis=0)
    costs = (np.dot(c.slopes**2 / 4, weights[c.voxels]) for c, weights in zip(comparisons, of_hidden, strict=True))
    whole = sum(c.cost for c in comparisons)
    return float(sum(costs) / whole) if whole else math.nan

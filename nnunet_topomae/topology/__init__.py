"""Persistent homology of images: diagrams, distances between them, a loss and measures. See docs/topology.md.

What needs PyTorch, Matplotlib or much of SciPy is imported when it is asked for: the rest does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._first_use import warm_up
from .metrics import betti_curve, betti_error, betti_numbers, bottleneck_distance
from .persistence import PersistenceDiagram, batched_persistence_diagrams, persistence_diagrams
from .wasserstein import WassersteinResult, squared_wasserstein

if TYPE_CHECKING:
    from .betti_matching import betti_matching_error
    from .differentiable import differentiable_points
    from .loss import Diagrams, LossTerms, PendingLoss, TopologicalLoss
    from .plot import plot_diagrams

_IMPORTED_LATER = {
    "Diagrams": "loss",
    "LossTerms": "loss",
    "PendingLoss": "loss",
    "TopologicalLoss": "loss",
    "betti_matching_error": "betti_matching",
    "differentiable_points": "differentiable",
    "plot_diagrams": "plot",
}

__all__ = [
    "Diagrams",
    "LossTerms",
    "PendingLoss",
    "PersistenceDiagram",
    "TopologicalLoss",
    "WassersteinResult",
    "batched_persistence_diagrams",
    "betti_curve",
    "betti_error",
    "betti_matching_error",
    "betti_numbers",
    "bottleneck_distance",
    "differentiable_points",
    "persistence_diagrams",
    "plot_diagrams",
    "squared_wasserstein",
    "warm_up",
]


def __getattr__(name: str) -> object:
    if name in _IMPORTED_LATER:
        return getattr(import_module(f"{__name__}.{_IMPORTED_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

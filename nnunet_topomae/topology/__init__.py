"""Persistent homology of 3D images: diagrams, distances between them, a loss and measures. See docs/topology.md."""

from .loss import Diagrams, LossTerms, PendingLoss, TopologicalLoss, dropped_bound, warm_up
from .metrics import betti_error, betti_numbers, bottleneck_distance
from .persistence import PersistenceDiagram, persistence_diagrams
from .wasserstein import WassersteinResult, squared_wasserstein

__all__ = [
    "Diagrams",
    "LossTerms",
    "PendingLoss",
    "PersistenceDiagram",
    "TopologicalLoss",
    "WassersteinResult",
    "betti_error",
    "betti_numbers",
    "bottleneck_distance",
    "dropped_bound",
    "persistence_diagrams",
    "squared_wasserstein",
    "warm_up",
]

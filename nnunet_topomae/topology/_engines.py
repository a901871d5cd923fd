"""Both engines, of diagrams and of distances, made ready."""

from __future__ import annotations

from . import persistence, wasserstein


def warm_up() -> None:
    """Compile the engines, or load them from Numba's cache, so that the first step is as fast as the next.

    The first use does this by itself, and says so on the log where there is something to compile.
    """
    persistence.warm_up()
    wasserstein.warm_up()

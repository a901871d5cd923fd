"""Where weights are: a path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Attributes:
        path: of the file.
        source: as the user wrote it.
        licence: what its publisher says; None where that is not known.
    """

    path: Path
    source: str
    licence: str | None


def local_weights(reference: str) -> Weights:
    """The file that a reference names."""
    return Weights(Path(reference), reference, None)

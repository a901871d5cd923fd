"""What makes two preprocessed images the same: their voxels, whatever the files are called.

Equal fingerprints mean equal shapes and equal float32 voxels *after* preprocessing. So a copy is found under another
name, in another file format or compression, with or without its label, as long as both went through the same
preprocessing: the spacing, normalisation and resampling of one plan. The same image preprocessed by two plans has two
fingerprints, and so has one that was rescaled, cropped, mirrored or stored with loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

SLICES = 16  # read together from a volume that has no chunks of its own


class VoxelFingerprint:
    """Of a volume [C, D, H, W] whose slices come one after the other, as `volume_slices` gives them."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._digest = hashlib.blake2b(repr(tuple(map(int, shape))).encode(), digest_size=16)

    def update(self, slices: np.ndarray) -> None:
        self._digest.update(np.ascontiguousarray(slices, "<f4") + np.float32(0))  # + 0: there are two zeros

    def __str__(self) -> str:
        """32 hexadecimal digits."""
        return self._digest.hexdigest()


def volume_slices(volume: Any) -> Iterator[np.ndarray]:
    """[C, D, H, W] in arrays of a few slices, in order, along the borders of its compressed chunks."""
    step = getattr(volume, "chunks", (1, SLICES))[1]
    for channel in range(volume.shape[0]):
        for start in range(0, volume.shape[1], step):
            yield volume[channel, start : start + step]

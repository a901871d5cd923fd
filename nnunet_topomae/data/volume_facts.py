"""What has to be known of a volume's voxels, from one reading: extremes, faults, and what makes two of them the same.

Equal fingerprints mean equal shapes and equal float32 voxels *after* preprocessing. So a copy is found under another
name, in another file format or compression, with or without its label, as long as both went through the same
preprocessing: the spacing, normalisation and resampling of one plan. The same image preprocessed by two plans has two
fingerprints, and so has one that was rescaled, cropped, mirrored or stored with loss; and where nnU-Net normalises in
the nonzero mask (`use_mask_for_norm`), to which it adds what is labelled, one whose label reaches outside that mask.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np

SLICES = 16  # read together from a volume that has no chunks of its own


class VolumeFacts(NamedTuple):
    """Of one volume [C, D, H, W].

    Attributes:
        shape: of all four axes.
        lowest, highest: of its finite voxels; NaN if there are none.
        non_finite: number of voxels that are NaN or infinite.
        fingerprint: of its voxels, 32 hexadecimal digits; None of a label.
    """

    shape: list[int]
    lowest: float
    highest: float
    non_finite: int
    fingerprint: str | None


def volume_facts(volume: Any, with_fingerprint: bool = True) -> VolumeFacts:
    """Of an array [C, D, H, W], or of a compressed one, of which a few slices are read at a time."""
    shape, non_finite = [int(side) for side in volume.shape], 0
    lowest, highest = math.nan, math.nan
    digest = hashlib.blake2b(repr(tuple(shape)).encode(), digest_size=16)
    step = getattr(volume, "chunks", (1, SLICES))[1]  # along the borders of compressed chunks
    for channel in range(shape[0]):
        for start in range(0, shape[1], step):
            slices = volume[channel, start : start + step]
            if with_fingerprint:
                digest.update(np.ascontiguousarray(slices, "<f4") + np.float32(0))  # + 0: there are two zeros
            finite = slices if np.isfinite([slices.min(), slices.max()]).all() else slices[np.isfinite(slices)]
            non_finite += slices.size - finite.size
            if finite.size:
                lowest, highest = np.fmin(lowest, finite.min()), np.fmax(highest, finite.max())
    fingerprint = digest.hexdigest() if with_fingerprint else None
    return VolumeFacts(shape, float(lowest), float(highest), non_finite, fingerprint)

"""Where a volume that is smaller than the patch lies in it.

nnU-Net always puts such a volume into the middle of the patch, in training and in prediction. A network with position
embeddings then learns where in the patch things are, and is lost where a tile is placed otherwise. In training we place
it anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_padding(shape: Sequence[int], patch_size: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels to add before and after each axis such that a volume of `shape` fills the patch: a random share before.

    Draws from NumPy's global generator, as nnU-Net's loader does. Axes that are as long as the patch get none.
    """
    missing = [max(0, side - length) for length, side in zip(shape, patch_size, strict=True)]
    before = [np.random.randint(total + 1) if total else 0 for total in missing]
    return [(first, total - first) for first, total in zip(before, missing, strict=True)]


class RandomPlacement:
    """A dataset of nnU-Net whose small volumes come padded to the patch, at a place drawn anew each time.

    Padding is nnU-Net's own: 0 in the image, -1 ("not there") in labels. A volume at least as large as the patch
    on all axes is handed through as it is, unread.
    """

    def __init__(self, dataset, patch_size: Sequence[int]) -> None:
        self.dataset = dataset
        self.patch_size = tuple(patch_size)
        self.identifiers = dataset.identifiers

    def load_case(self, identifier: str):
        image, labels, previous, properties = self.dataset.load_case(identifier)
        padding = draw_padding(image.shape[1:], self.patch_size)
        if not any(before or after for before, after in padding):
            return image, labels, previous, properties
        image, labels = _padded(image, padding, 0), _padded(labels, padding, -1)
        if previous is not None:  # of a cascade's first stage
            previous = _padded(previous, padding, -1)
        shift = np.array([0, *(before for before, _ in padding)])  # of class locations: (channel, three axes)
        locations = {
            label: np.asarray(voxels) + shift if len(voxels) else voxels
            for label, voxels in properties["class_locations"].items()
        }
        return image, labels, previous, {**properties, "class_locations": locations}


def _padded(volume, padding: Sequence[tuple[int, int]], outside: int) -> np.ndarray:
    """The last three axes of [..., D, H, W]."""
    others = [(0, 0)] * (volume.ndim - len(padding))
    return np.pad(np.asarray(volume[:]), [*others, *padding], constant_values=outside)

from __future__ import annotations

import blosc2
import numpy as np
import pytest

from nnunet_topomae.data.volume_facts import volume_facts


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 33, 6, 5)).astype(np.float32)


@pytest.mark.parametrize("chunks", [(1, 4, 6, 5), (2, 33, 6, 5), (1, 7, 2, 3)])
def test_it_depends_on_voxels_and_not_on_how_they_are_stored(image: np.ndarray, chunks: tuple[int, ...]) -> None:
    stored = blosc2.asarray(image, chunks=chunks, blocks=(1, 2, 2, 3))
    for same in (stored, image.astype(np.float64), image.astype(">f4"), np.asfortranarray(image), image.copy()):
        assert volume_facts(same).fingerprint == volume_facts(image).fingerprint


def test_both_zeros_are_one() -> None:
    zeros = np.zeros((1, 2, 3, 4), np.float32)
    assert volume_facts(-zeros).fingerprint == volume_facts(zeros).fingerprint


def test_whatever_differs_in_one_voxel_in_shape_or_in_order_differs(image: np.ndarray) -> None:
    other = image.copy()
    other[1, 32, 5, 4] = np.nextafter(other[1, 32, 5, 4], 9)
    different = [other, image[::-1], image[:, ::-1], image.reshape(2, 33, 5, 6), image[:1], image.reshape(1, 66, 6, 5)]
    assert len({volume_facts(each).fingerprint for each in [image, *different]}) == 1 + len(different)


def test_a_compressed_volume_is_read_a_few_slices_at_a_time(image: np.ndarray) -> None:
    class Watched:
        shape, chunks, largest = image.shape, (1, 4, 6, 5), 0

        def __getitem__(self, index):
            part = image[index]
            self.largest = max(self.largest, part.size)
            return part

    watched = Watched()
    assert volume_facts(watched) == volume_facts(image)
    assert watched.largest == 4 * 6 * 5

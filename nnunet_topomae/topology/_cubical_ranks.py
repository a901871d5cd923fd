"""The order of the voxels by (value, position), as integers: the one place where ties are decided."""

from __future__ import annotations

import numpy as np

from ._jit import inline, jit

WORD_BITS = 32
DIGIT_BITS = 11  # a word has three
RADIX = 1 << DIGIT_BITS
INDEX_BITS = 30
INDEX = (1 << INDEX_BITS) - 1
BORDER_RANK = INDEX  # above every voxel's


def sort_bits(volume: np.ndarray) -> np.ndarray:
    """The float32 or float64 values' bits as integers [grid.size], within a border of one voxel of zeros."""
    values = np.zeros([side + 2 for side in volume.shape], volume.dtype)
    np.add(volume, 0, out=values[1:-1, 1:-1, 1:-1])  # -0.0 becomes 0.0
    return values.ravel().view(f"i{values.itemsize}")


@jit
def sort_voxels(bits, order, rank, items, next_items, depth, height, width):
    """Write the order of the voxels, and its inverse. `items`, `next_items`: [n] int64 to work in.

    A radix sort from the least significant digit upwards, of words of 32 bits of the key above the voxel's index: one
    word for float32, two for float64.

    Args:
        order: [n] int32, receives the voxels, as indices into the grid with its border, by ascending value; those with
            equal values keep their order.
        rank: [grid.size] int32, receives each voxel's place in it.
    """
    i = 0
    for z in range(depth):
        for y in range(height):
            start = ((z + 1) * (height + 2) + y + 1) * (width + 2) + 1
            order[i : i + width] = np.arange(start, start + width)
            i += width
    for shift in range(0, 8 * bits.itemsize, WORD_BITS):
        first, second, third = np.zeros(RADIX, np.int32), np.zeros(RADIX, np.int32), np.zeros(RADIX, np.int32)
        for voxel in order:
            item = _item(bits, voxel, shift)
            first[_digit(item, 0)] += 1
            second[_digit(item, 1)] += 1
            third[_digit(item, 2)] += 1
        _count_to_place(first)
        _count_to_place(second)
        _count_to_place(third)
        for voxel in order:
            item = _item(bits, voxel, shift)
            place = first[_digit(item, 0)]
            first[_digit(item, 0)] = place + 1
            items[place] = item
        for item in items:
            place = second[_digit(item, 1)]
            second[_digit(item, 1)] = place + 1
            next_items[place] = item
        for item in next_items:
            place = third[_digit(item, 2)]
            third[_digit(item, 2)] = place + 1
            order[place] = item & INDEX
    rank[:] = BORDER_RANK
    for i in range(order.size):
        rank[order[i]] = i


@inline
def _item(bits, voxel, shift):
    """A word of the voxel's key, above the voxel."""
    value = np.int64(bits[voxel])
    smallest = np.int64(1) << (8 * bits.itemsize - 1)
    key = ~value if value < 0 else value ^ smallest  # a float is sign and magnitude
    return (key >> shift & ((1 << WORD_BITS) - 1)) << INDEX_BITS | np.int64(voxel)


@inline
def _digit(item, digit):
    return item >> (INDEX_BITS + digit * DIGIT_BITS) & (RADIX - 1)


@jit
def _count_to_place(counts):
    total = 0
    for digit in range(RADIX):
        count = counts[digit]
        counts[digit] = total
        total += count

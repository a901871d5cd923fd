"""The order of the voxels by (value, position), as integers: the one place where ties are decided."""

from __future__ import annotations

import numpy as np

from ._jit import jit

WORD_BITS = 32
DIGIT_BITS = 11
DIGITS = 3  # of a word
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
def order_and_rank(bits, depth, height, width):
    """The order of the voxels, and its inverse.

    A radix sort from the least significant digit upwards, of words of 32 bits of the key above the voxel's index: one
    word for float32, two for float64. A digit that all words share is skipped.

    Returns:
        [n] int32 voxels, as indices into the grid with its border, by ascending value; those with equal values keep
        their order.
        [grid.size] int32 each voxel's place in it.
    """
    items = np.empty(depth * height * width, np.int64)
    i = 0
    for z in range(depth):
        for y in range(height):
            start = ((z + 1) * (height + 2) + y + 1) * (width + 2) + 1
            items[i : i + width] = np.arange(start, start + width)
            i += width
    next_items = np.empty_like(items)
    position = np.empty((DIGITS, RADIX), np.int64)
    smallest = np.int64(1) << (8 * bits.itemsize - 1)
    for shift in range(0, 8 * bits.itemsize, WORD_BITS):
        position[:] = 0
        for i in range(items.size):
            index = items[i] & INDEX
            # A float is sign and magnitude: of negative ones the largest magnitude comes first.
            value = np.int64(bits[index])
            key = ~value if value < 0 else value ^ smallest
            word = key >> shift & ((1 << WORD_BITS) - 1)
            items[i] = word << INDEX_BITS | index
            for digit in range(DIGITS):
                position[digit, word >> (digit * DIGIT_BITS) & (RADIX - 1)] += 1
        for digit in range(DIGITS):
            digit_shift = INDEX_BITS + digit * DIGIT_BITS
            to = position[digit]
            if to[items[0] >> digit_shift & (RADIX - 1)] == items.size:
                continue
            total = 0
            for d in range(RADIX):
                count = to[d]
                to[d] = total
                total += count
            for item in items:
                d = item >> digit_shift & (RADIX - 1)
                place = to[d]
                to[d] = place + 1
                next_items[place] = item
            items, next_items = next_items, items
    order = np.empty(items.size, np.int32)
    rank = np.full(bits.size, BORDER_RANK, np.int32)
    for i in range(items.size):
        order[i] = items[i] & INDEX
        rank[order[i]] = i
    return order, rank

"""The order of the voxels by (value, position), as integers: the one place where ties are decided."""

from __future__ import annotations

import numpy as np

from ._jit import inline, jit, pointer

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


@inline
def row_start(z, y, height, width):
    """The first voxel of a row of the volume, as an index into the grid with its border."""
    return ((z + 1) * (height + 2) + y + 1) * (width + 2) + 1


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
            start = row_start(z, y, height, width)
            for x in range(width):
                order[i + x] = start + x
            i += width
    rank[:] = BORDER_RANK
    for shift in range(0, 8 * bits.itemsize, WORD_BITS):
        _sort_by_word(bits, shift, order, rank, items, next_items, np.zeros((DIGITS, RADIX), np.int32))


@jit
def _sort_by_word(bits, shift, order, rank, items, next_items, counts):
    """Sort by one word of the key, one digit at a time, and write the ranks. `counts`: [DIGITS, RADIX] int32, zeros."""
    size, key_bits = order.size, 8 * bits.itemsize
    bits, order, rank = pointer(bits), pointer(order), pointer(rank)
    items, next_items, places = pointer(items), pointer(next_items), pointer(counts)
    for i in range(size):
        next_items[i] = _item(bits, key_bits, order[i], shift)
        for digit in range(DIGITS):
            places[_bucket(next_items[i], digit)] += 1
    for digit in range(DIGITS):
        _count_to_place(counts[digit])
    for i in range(size):
        items[_next_place(places, _bucket(next_items[i], 0))] = next_items[i]
    for i in range(size):
        next_items[_next_place(places, _bucket(items[i], 1))] = items[i]
    for i in range(size):
        place, voxel = _next_place(places, _bucket(next_items[i], 2)), next_items[i] & INDEX
        order[place] = voxel
        rank[voxel] = place


@inline
def _item(bits, key_bits, voxel, shift):
    """A word of the voxel's key, above the voxel."""
    value = np.int64(bits[voxel])
    smallest = np.int64(1) << (key_bits - 1)
    key = ~value if value < 0 else value ^ smallest  # a float is sign and magnitude
    return (key >> shift & ((1 << WORD_BITS) - 1)) << INDEX_BITS | np.int64(voxel)


@inline
def _bucket(item, digit):
    """Of all digits' buckets, that of the item's digit."""
    return RADIX * digit + (item >> (INDEX_BITS + digit * DIGIT_BITS) & (RADIX - 1))


@inline
def _next_place(places, bucket):
    place = places[bucket]
    places[bucket] = place + 1
    return place


@jit
def _count_to_place(counts):
    total = 0
    for digit in range(RADIX):
        count = counts[digit]
        counts[digit] = total
        total += count

"""The order of the voxels by (value, position), as integers: the one place where ties are decided."""

from __future__ import annotations

import numpy as np

from ._jit import jit

DIGIT_BITS = 11
RADIX = 1 << DIGIT_BITS


def sort_keys(values: np.ndarray) -> np.ndarray:
    """Unsigned integers [values.size] that compare as the float32 or float64 values do."""
    floats = values.ravel() + values.dtype.type(0)  # a copy, in which -0.0 has become 0.0
    bits = floats.view(f"i{floats.itemsize}")
    # A float is sign and magnitude: flip the magnitude of the negative ones, then move the smallest integer to zero.
    bits ^= (bits >> (8 * bits.itemsize - 1)) & np.iinfo(bits.dtype).max
    bits ^= np.iinfo(bits.dtype).min
    return bits.view(f"u{bits.itemsize}")


@jit
def voxels_by_rank(keys, depth, height, width):
    """Indices into the volume with a border of one voxel, by ascending key; voxels with equal keys keep their order.

    A radix sort from the least significant digit upwards; a digit that all keys share is skipped.
    """
    order = np.empty(keys.size, np.int32)
    i = 0
    for z in range(depth):
        for y in range(height):
            start = ((z + 1) * (height + 2) + y + 1) * (width + 2) + 1
            order[i : i + width] = np.arange(start, start + width)
            i += width
    next_keys = np.empty_like(keys)
    next_order = np.empty_like(order)
    position = np.empty(RADIX, np.int64)
    for shift in range(0, 8 * keys.itemsize, DIGIT_BITS):
        position[:] = 0
        for key in keys:
            position[(key >> shift) & (RADIX - 1)] += 1
        if position[(keys[0] >> shift) & (RADIX - 1)] == keys.size:
            continue
        total = 0
        for digit in range(RADIX):
            count = position[digit]
            position[digit] = total
            total += count
        for i in range(keys.size):
            digit = (keys[i] >> shift) & (RADIX - 1)
            to = position[digit]
            position[digit] += 1
            next_keys[to] = keys[i]
            next_order[to] = order[i]
        keys, next_keys = next_keys, keys
        order, next_order = next_order, order
    return order

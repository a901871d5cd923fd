"""Volumes as one PNG of all their slices, for a canvas to take apart again."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

GREYS = 64  # more than the eye tells apart on a page, in three quarters of the bytes of 256


def mosaic(volume: np.ndarray) -> str:
    """A [D, H, W] uint8 volume as a data URI: its D slices in a grid, row by row.

    The grid is near a square, because browsers limit the side of a canvas. `page.js` undoes it; lossless.
    """
    depth, height, width = volume.shape
    columns = mosaic_columns(volume.shape)
    rows = -(-depth // columns)
    grid = np.zeros((rows * columns, height, width), dtype=np.uint8)
    grid[:depth] = volume
    grid = grid.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def mosaic_columns(shape: Sequence[int]) -> int:
    """Slices beside each other in a mosaic."""
    depth, height, width = shape
    return min(depth, max(1, math.ceil(math.sqrt(depth * height / width))))


def as_bytes(volume: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Intensities as uint8, 0 to 255 over `window` in GREYS steps."""
    low, high = window
    unit = np.clip((volume - low) / max(high - low, 1e-6), 0, 1)
    return np.rint(np.rint(unit * (GREYS - 1)) * (255 / (GREYS - 1))).astype(np.uint8)

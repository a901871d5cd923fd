"""Label maps as nnU-Net reads them, held to what a label is."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from scipy.ndimage import find_objects

from nnunet_topomae.data.raw_images import require_whole

MAX_LABEL = 2**16 - 1


class LabelMap(NamedTuple):
    """What a file holds.

    Attributes:
        labels: [D, H, W], integers.
        spacing: of D, H, W.
        present: the labels that occur, apart from 0.
    """

    labels: np.ndarray
    spacing: tuple[float, ...]
    present: set[int]


def read_label_map(file: Path, reader: type[BaseReaderWriter], allowed: Iterable[int] | None = None) -> LabelMap:
    """A label map as nnU-Net reads it.

    Raises:
        ValueError: unreadable or damaged, not one channel of integers from 0 on, or values that are not `allowed`.
    """
    require_whole([file])
    try:
        with redirect_stdout(io.StringIO()):  # of a missing spacing, which `pair_files` has seen
            values, properties = reader().read_seg(str(file))
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise ValueError(f"{file} cannot be read ({type(error).__name__}: {error})") from error
    if len(values) != 1:
        raise ValueError(f"{file} has {len(values)} channels: a label map has one")
    low, high = values.min(), values.max()
    if not (0 <= low and high <= MAX_LABEL):  # NaN, too
        raise ValueError(f"{file} holds {low:g} to {high:g}: labels are whole numbers from 0 to {MAX_LABEL}")
    labels = values[0].astype(np.uint16 if high > 255 else np.uint8)
    if not np.array_equal(labels, values[0]):
        fraction = values[0][labels != values[0]].flat[0]
        raise ValueError(f"{file} holds {fraction:g}: labels are whole numbers")
    present = {value for value, box in enumerate(find_objects(labels), start=1) if box}
    unknown = set() if allowed is None else present - set(allowed)
    if unknown:
        raise ValueError(
            f"{file} holds the label {', '.join(map(str, sorted(unknown)))}, which dataset.json does not list: "
            "correct one of them"
        )
    return LabelMap(labels, tuple(properties["spacing"]), present)

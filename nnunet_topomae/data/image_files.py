"""Images are written whole or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import SimpleITK as sitk

from nnunet_topomae.files import written_whole


def write_image(file: Path, image: sitk.Image) -> Path:
    """Write CASE.nii.gz. Raises OSError, also on a full disk, where SimpleITK cuts the file short without a word."""
    with written_whole(file) as partial:
        sitk.WriteImage(image, str(partial))
        if _length(partial) < sitk.GetArrayViewFromImage(image).nbytes:
            raise OSError("it was cut short: is the disk full?")
    return file


def _length(file: Path) -> int:
    """In bytes, uncompressed; 0 where the end is missing."""
    try:
        with gzip.open(file) as stream:
            return len(stream.read())
    except EOFError:
        return 0

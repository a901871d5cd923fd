"""Images are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from nnunet_topomae.data.raw_images import image_fault
from nnunet_topomae.files import written_whole


def write_image(file: Path, image: sitk.Image) -> Path:
    """Write CASE.nii.gz. Raises OSError, also on a full disk, where SimpleITK cuts the file short without a word."""
    with written_whole(file) as partial:
        sitk.WriteImage(image, str(partial))
        if image_fault(partial):
            raise OSError("it was cut short: is the disk full?")
    return file

"""How an image lies in the body, by its header, and how it is turned to be looked at: in radiological convention."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, ornt_transform
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_topomae.visualization.slices import plane_name

Directions = tuple[str, str, str]  # where each axis of an array points to: one of R L, A P, S I
Value = TypeVar("Value")

SHOWN: Directions = ("I", "P", "L")  # the first row of a slice is superior or anterior, its first column right
RAS: Directions = ("S", "A", "R")  # of D, H, W, in which a reader may turn what it reads
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


class Plane(NamedTuple):
    """Slices across one axis, and what is at the four edges of them; empty where the header does not say."""

    name: str
    top: str = ""
    bottom: str = ""
    left: str = ""
    right: str = ""


class View:
    """Turns arrays [D, H, W] so that slices across the axes are axial, coronal and sagittal; or leaves them.

    Args:
        directions: of D, H, W; None where nobody knows.
    """

    def __init__(self, directions: Directions | None) -> None:
        self.is_known = directions is not None
        self._turn = ornt_transform(axcodes2ornt(directions or SHOWN), axcodes2ornt(SHOWN))

    def volume(self, array: np.ndarray) -> np.ndarray:
        turned: np.ndarray = apply_orientation(array, self._turn)
        return np.ascontiguousarray(turned)

    def of_axes(self, values: Sequence[Value]) -> list[Value]:
        """A value for each of D, H, W, such as the spacing, in the order of the turned axes."""
        return [values[axis] for axis in np.argsort(self._turn[:, 0])]

    @property
    def planes(self) -> list[Plane]:
        if not self.is_known:
            return [Plane(plane_name(axis)) for axis in range(3)]
        return [Plane("axial", *"APRL"), Plane("coronal", *"SIRL"), Plane("sagittal", *"SIAP")]


def axis_directions(file: Path, reader: type[BaseReaderWriter]) -> Directions | None:
    """Of D, H, W as the reader gives them, the nearest ones where the image lies obliquely; no voxel is read.

    None for pictures, two-dimensional images, and NIfTI files whose header does not say (both of its codes are 0).
    """
    if file.name.endswith((".nii", ".nii.gz")):
        image: Any = nibabel.load(file)
        if not (int(image.header["qform_code"]) or int(image.header["sform_code"])):
            return None
        affine = image.affine
    if reader.__name__.endswith("WithReorient"):
        return RAS
    if issubclass(reader, SimpleITKIO):
        affine = _itk_affine(file)
    elif not issubclass(reader, NibabelIO):
        return None
    return _of_affine(affine)


def _itk_affine(file: Path) -> np.ndarray | None:
    """[4, 4], from voxels (x, y, z) to RAS, without spacing and origin; None for an image of two dimensions."""
    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    header.ReadImageInformation()
    direction = np.array(header.GetDirection())
    side = isqrt(len(direction))
    if side < 3:
        return None
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ direction.reshape(side, side)[:3, :3]
    return affine


def _of_affine(affine: np.ndarray | None) -> Directions | None:
    """Of the axes (z, y, x), by an affine of the axes (x, y, z) to RAS."""
    if affine is None or not np.isfinite(affine).all():
        return None
    x, y, z = aff2axcodes(affine)
    return None if None in (x, y, z) else (z, y, x)

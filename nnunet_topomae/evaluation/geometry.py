"""Where the voxels of an image file lie in space, from its header alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_topomae.files import read_json

NIFTI = (".nii", ".nii.gz")
MAX_COSINE = 1e-3  # of two axes that count as perpendicular: distances are then true to a thousandth
MAX_SHIFT = 0.1  # voxels by which two grids may lie apart: headers are rounded
SHEARED = (
    "its axes are sheared, not perpendicular, so that its spacing gives no distances: resample both segmentations to a "
    "grid with perpendicular axes"
)


@dataclass(frozen=True)
class Geometry:
    """A grid of voxels.

    Attributes:
        shape: as the file has it, [D, H, W] or [H, W].
        spacing: mm of D, H, W, as nnU-Net's reader takes it; None where the file does not say.
        affine: [axes + 1, axes + 1], from indices in the order W, H, D to mm; None where the file does not say.
        note: what in the header contradicts the spacing, in words; empty if nothing does.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    affine: npt.NDArray[np.float64] | None
    note: str = ""

    @property
    def is_flat(self) -> bool:
        return len(self.shape) == 2 or len(self.shape) == 3 and 1 in self.shape

    def difference(self, other: Geometry) -> str:
        """In words; empty where both are the same grid, as far as both files say."""
        if self.shape != other.shape:
            return f"shape {list(self.shape)} and {list(other.shape)}"
        shift = 0.0
        if self.affine is not None and other.affine is not None:
            shift = np.linalg.norm(_corners(self.affine, self.shape) - _corners(other.affine, self.shape), axis=1).max()
            if shift <= MAX_SHIFT * min(self.spacing or other.spacing or (1.0,)):
                return ""
        if self.spacing and other.spacing and not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return f"spacing {_rounded(self.spacing)} and {_rounded(other.spacing)} mm"
        return f"origin or direction: voxels lie up to {shift:.3g} mm apart" if shift else ""


def _corners(affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    axes = len(affine) - 1
    corners = np.stack(np.meshgrid(*([0, side - 1] for side in shape[::-1]), indexing="ij"), -1)
    return corners.reshape(-1, axes) @ affine[:axes, :axes].T + affine[:axes, axes]


def read_geometry(file: Path, ending: str, reader: type[BaseReaderWriter]) -> Geometry:
    """Of a label map that `reader` will read.

    Raises:
        ValueError: the file is damaged, or its header says that the reader's spacing gives no distances: axes that are
            not perpendicular, lengths that are 0 or infinite, a unit other than mm that the reader does not look at.
    """
    ending = ending.lower()
    try:
        geometry = _read(file, ending, reader)
        if geometry.spacing and not all(0 < length < math.inf for length in geometry.spacing):
            raise ValueError(f"no voxel has a size of {_rounded(geometry.spacing)} mm: correct its header")
        return geometry
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise ValueError(f"{file}: {(str(error).strip() or repr(error)).splitlines()[-1]}") from error


def _read(file: Path, ending: str, reader: type[BaseReaderWriter]) -> Geometry:
    if issubclass(reader, SimpleITKIO):
        geometry = _by_simpleitk(file)
        if ending in NIFTI:
            with suppress(OSError, nibabel.filebasedimages.ImageFileError):  # not compressed, say: ITK does not mind
                return replace(geometry, note=_contradiction(file, geometry.spacing, nibabel.load(file)))
        return geometry
    if ending in NIFTI:
        return _by_nibabel(file)
    return _by_tifffile(file, ending) if issubclass(reader, Tiff3DIO) else _by_reader(file, reader)


def _contradiction(file: Path, spacing: tuple[float, ...] | None, image: Any) -> str:
    """ACDC's sform has voxels of 1 mm, whatever the image's; its qform and the header's sizes are right."""
    zooms = image.header.get_zooms()[:3]
    sizes = np.linalg.norm(image.affine[:3, : len(zooms)], axis=0)
    if spacing is None or np.allclose(sizes, zooms, rtol=1e-3):
        return ""
    return f"{file.name}: spacing {_rounded(spacing)}, affine of voxels of {_rounded(sizes[::-1])} mm"


def _refuse_sheared(axes: npt.NDArray[np.float64]) -> None:
    """Of a matrix whose columns are the axes."""
    sizes = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(sizes).all() and sizes.all()):
        raise ValueError(f"its header gives its axes the lengths {_rounded(sizes)}: correct it")
    directions = axes / sizes
    if np.abs(directions.T @ directions - np.eye(axes.shape[1])).max() > MAX_COSINE:
        raise ValueError(SHEARED)


def _by_simpleitk(file: Path) -> Geometry:
    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    try:
        header.ReadImageInformation()
    except RuntimeError as error:
        unreadable = "it is damaged, or no image: ITK cannot read its header"
        raise ValueError(SHEARED if "orthonormal" in str(error) else unreadable) from error
    axes = header.GetDimension()
    directions = np.reshape(header.GetDirection(), (axes, axes))
    _refuse_sheared(directions)
    affine = np.eye(axes + 1)
    affine[:axes, :axes] = directions * header.GetSpacing()
    affine[:axes, axes] = header.GetOrigin()
    return Geometry(tuple(header.GetSize()[::-1]), tuple(np.abs(header.GetSpacing()[::-1]).tolist()), affine)


def _by_nibabel(file: Path) -> Geometry:
    image: Any = nibabel.load(file)
    unit = image.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise ValueError(f"its header is in {unit}s, which nnU-Net's reader takes for mm: write it in mm")
    spacing = tuple(map(float, image.header.get_zooms()[::-1]))
    _refuse_sheared(image.affine[:3, : min(len(spacing), 3)])
    return Geometry(image.shape[::-1], spacing, image.affine, _contradiction(file, spacing, image))


def _by_tifffile(file: Path, ending: str) -> Geometry:
    with tifffile.TiffFile(file) as image:
        shape = image.series[0].shape
    companion = file.with_name(f"{file.name[: -len(ending)]}.json")
    if not companion.is_file():
        return Geometry(shape, None, None)
    spacing = read_json(companion).get("spacing", [])
    if len(spacing) != len(shape):
        raise ValueError(f"{companion.name} beside it must give a spacing for each axis, not {spacing}")
    return Geometry(shape, tuple(map(float, spacing)), None)


def _by_reader(file: Path, reader: type[BaseReaderWriter]) -> Geometry:
    values, properties = reader().read_seg(str(file))
    spacing = None if issubclass(reader, NaturalImage2DIO) else tuple(map(float, properties["spacing"]))
    return Geometry(values.shape[1:], spacing, None)


def _rounded(values: Iterable[float]) -> str:
    return "×".join(f"{value:.4g}" for value in values)

"""Where the voxels of an image file lie in space, from its header alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

NIFTI = (".nii", ".nii.gz")
MAX_COSINE = 1e-3  # of two axes that count as perpendicular: distances are then true to a thousandth
MAX_SHIFT = 0.1  # voxels by which two grids may lie apart: headers are rounded


@dataclass(frozen=True)
class Geometry:
    """A grid of voxels.

    Attributes:
        shape: as the file has it, [D, H, W] or [H, W].
        spacing: mm of D, H, W; None where the file does not say.
        affine: [axes + 1, axes + 1], from indices in the order W, H, D to mm; None where the file does not say.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    affine: np.ndarray | None

    def difference(self, other: Geometry) -> str:
        """In words; empty where both are the same grid, as far as both files say."""
        if self.shape != other.shape:
            return f"shape {list(self.shape)} and {list(other.shape)}"
        if self.spacing and other.spacing and not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return f"spacing {_rounded(self.spacing)} and {_rounded(other.spacing)} mm"
        if self.affine is not None and other.affine is not None:
            shift = np.linalg.norm(self._corners() - other._corners(), axis=1).max()
            if not shift <= MAX_SHIFT * min(self.spacing or other.spacing or (1.0,)):  # NaN, too
                return f"origin or direction: voxels lie up to {shift:.3g} mm apart"
        return ""

    def _corners(self) -> np.ndarray:
        axes = len(self.affine) - 1
        corners = np.stack(np.meshgrid(*([0, side - 1] for side in self.shape[::-1]), indexing="ij"), -1)
        return corners.reshape(-1, axes) @ self.affine[:axes, :axes].T + self.affine[:axes, axes]


def read_geometry(file: Path, ending: str, reader: type[BaseReaderWriter]) -> Geometry:
    """Of a label map that `reader` will read.

    Raises:
        ValueError: the file is damaged, or its header says that no spacing gives distances: axes that are not
            perpendicular, an affine with another voxel size than the header's, a unit other than mm.
    """
    ending = ending.lower()
    try:
        if ending in NIFTI:
            _refuse_misleading_nifti(file)
        if issubclass(reader, SimpleITKIO):
            return _by_simpleitk(file)
        if ending in NIFTI:
            return _by_nibabel(file)
        if issubclass(reader, Tiff3DIO):
            return _by_tifffile(file, ending)
        return _by_reader(file, reader)
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise ValueError(f"{file}: {str(error).strip() or repr(error)}") from error


def _refuse_misleading_nifti(file: Path) -> None:
    image = nibabel.load(file)
    unit = image.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise ValueError(f"its header is in {unit}s, which nnU-Net may take for mm: write it in mm")
    zooms = image.header.get_zooms()[:3]
    axes = image.affine[:3, : len(zooms)]
    sizes = np.linalg.norm(axes, axis=0)
    _refuse_sheared(axes / sizes)
    if not np.allclose(sizes, zooms, rtol=1e-3):
        raise ValueError(f"its header has voxels of {_rounded(zooms)} mm, its affine of {_rounded(sizes)} mm")


def _refuse_sheared(directions: np.ndarray) -> None:
    """Of a matrix whose columns are the axes, of length 1."""
    cosine = np.abs(directions.T @ directions - np.eye(directions.shape[1])).max()
    if not cosine <= MAX_COSINE:  # NaN, too
        raise ValueError(
            "its axes are sheared, not perpendicular, so that its spacing gives no distances: resample both "
            "segmentations to a grid with perpendicular axes"
        )


def _by_simpleitk(file: Path) -> Geometry:
    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    header.ReadImageInformation()
    axes = header.GetDimension()
    directions = np.reshape(header.GetDirection(), (axes, axes))
    _refuse_sheared(directions)
    affine = np.eye(axes + 1)
    affine[:axes, :axes] = directions * header.GetSpacing()
    affine[:axes, axes] = header.GetOrigin()
    return Geometry(tuple(header.GetSize()[::-1]), tuple(header.GetSpacing()[::-1]), affine)


def _by_nibabel(file: Path) -> Geometry:
    image = nibabel.load(file)
    return Geometry(image.shape[::-1], tuple(map(float, image.header.get_zooms()[::-1])), image.affine)


def _by_tifffile(file: Path, ending: str) -> Geometry:
    with tifffile.TiffFile(file) as image:
        shape = image.series[0].shape
    companion = file.with_name(f"{file.name[: -len(ending)]}.json")
    if not companion.is_file():
        return Geometry(shape, None, None)
    spacing = json.loads(companion.read_text()).get("spacing", [])
    if len(spacing) != len(shape) or min(spacing) <= 0:
        raise ValueError(f"{companion.name} beside it must give a positive spacing for each axis, not {spacing}")
    return Geometry(shape, tuple(map(float, spacing)), None)


def _by_reader(file: Path, reader: type[BaseReaderWriter]) -> Geometry:
    values, properties = reader().read_seg(str(file))
    spacing = None if issubclass(reader, NaturalImage2DIO) else tuple(map(float, properties["spacing"]))
    return Geometry(values.shape[1:], spacing, None)


def _rounded(values) -> str:
    return "×".join(f"{value:.4g}" for value in values)

"""Slices as a radiologist looks at them, by the header of the image."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from PIL import Image

from nnunet_topomae.visualization.orientation import View, axis_directions

SHAPE = (5, 6, 7)
# A body in RAS, [x, y, z]: marks at its right, anterior and superior ends, apart by their values.
RIGHT, ANTERIOR, SUPERIOR = 1, 2, 3


def body() -> np.ndarray:
    volume = np.zeros(SHAPE, np.uint8)
    volume[-1, 3, 3], volume[2, -1, 3], volume[2, 3, -1] = RIGHT, ANTERIOR, SUPERIOR
    return volume


def stored(codes: str, file: Path, tilt: float = 0.0) -> Path:
    """The body with its axes (x, y, z) as the codes say, its affine tilted by so many degrees."""
    image = nibabel.Nifti1Image(body(), np.diag([2.0, 1.0, 3.0, 1.0]))
    to = nibabel.orientations.axcodes2ornt(tuple(codes))
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), to))
    turn = np.eye(4)
    c, s = np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))
    turn[1:3, 1:3] = [[c, -s], [s, c]]
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine)
    image.header.set_sform(image.affine, 1)
    image.header.set_qform(image.affine, 1)
    nibabel.save(image, file)
    return file


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize(("codes", "tilt"), [("RAS", 0), ("LPS", 0), ("SRP", 0), ("AIL", 0), ("LPS", 30)])
def test_every_way_to_store_a_body_is_shown_alike(tmp_path, reader, codes, tilt):
    file = stored(codes, tmp_path / "a_0000.nii.gz", tilt)
    image, properties = reader().read_images([str(file)])
    view = View(axis_directions(file, reader))
    shown = view.volume(image[0])
    assert [plane.name for plane in view.planes] == ["axial", "coronal", "sagittal"]
    assert shown.shape == (7, 6, 5) and view.of_axes(properties["spacing"]) == pytest.approx([3, 1, 2], rel=1e-5)
    # Rows run from superior or anterior downwards, columns from the patient's right (or anterior) rightwards.
    axial, coronal, sagittal = shown[3], shown[:, 2], shown[:, :, 2]
    assert np.argwhere(axial == RIGHT).tolist() == [[2, 0]] and np.argwhere(axial == ANTERIOR).tolist() == [[0, 2]]
    assert np.argwhere(coronal == SUPERIOR).tolist() == [[0, 2]] and np.argwhere(coronal == RIGHT).tolist() == [[3, 0]]
    assert np.argwhere(sagittal == SUPERIOR).tolist() == [[0, 2]]
    assert np.argwhere(sagittal == ANTERIOR).tolist() == [[3, 0]]


def test_edges_are_marked():
    marks = ["".join(plane[1:]) for plane in View(("S", "A", "R")).planes]
    assert marks == ["APRL", "SIRL", "SIAP"]


def test_files_that_say_no_direction_are_shown_as_stored(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    flat = sitk.GetImageFromArray(np.zeros((4, 5), np.uint8))
    sitk.WriteImage(flat, str(tmp_path / "flat.nrrd"))
    silent = nibabel.Nifti1Image(body(), None)
    nibabel.save(silent, tmp_path / "silent.nii.gz")
    assert axis_directions(tmp_path / "a.png", NaturalImage2DIO) is None
    assert axis_directions(tmp_path / "flat.nrrd", SimpleITKIO) is None
    assert axis_directions(tmp_path / "silent.nii.gz", SimpleITKIO) is None
    view = View(None)
    assert np.array_equal(view.volume(body()), body()) and view.of_axes([1, 2, 3]) == [1, 2, 3]
    assert [plane.name for plane in view.planes] == ["H × W", "D × W", "D × H"] and view.planes[0].top == ""


def test_a_volume_of_another_format_says_its_direction(tmp_path):
    image = sitk.GetImageFromArray(np.zeros(SHAPE, np.uint8))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))  # x to posterior, y to superior, z to left
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    assert axis_directions(tmp_path / "a.mha", SimpleITKIO) == ("L", "S", "P")

"""What is wrong with the files of two folders is said before any voxel is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from skimage.io import imsave

from nnunet_topomae.evaluation.classes import Classes
from nnunet_topomae.evaluation.folder import evaluate_folder
from nnunet_topomae.evaluation.pairs import file_ending, pair_files

NIFTI = {"file_ending": ".nii.gz"}
READERS = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")
SPACING = (0.5, 1.0, 3.0)  # x, y, z
CUBE = np.zeros((10, 12, 14), np.uint8)
CUBE[2:6, 2:6, 2:6] = 1
SHIFTED = np.roll(CUBE, 2, axis=0)  # 6 mm


def write(file: Path, labels=CUBE, spacing=SPACING, origin=None, direction=None) -> None:
    file.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(spacing[: labels.ndim])
    if origin:
        image.SetOrigin(origin)
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(file))


@pytest.fixture
def gt(tmp_path) -> Path:
    for case in "ab":
        write(tmp_path / "gt" / f"{case}.nii.gz")
    return tmp_path / "gt"


@pytest.fixture
def predicted(tmp_path) -> Path:
    for case in "ab":
        write(tmp_path / "predicted" / f"{case}.nii.gz", SHIFTED)
    return tmp_path / "predicted"


def hd95(gt: Path, predicted: Path, description: dict) -> tuple[float, str]:
    folder = pair_files(gt, predicted, description)
    summary = evaluate_folder(folder, Classes({1: "cube"}))
    return summary["mean"]["1"]["HD95"], summary["definitions"]["HD95"]["unit"]


def test_missing_and_extra_files_are_named(gt, predicted):
    (predicted / "b.nii.gz").rename(predicted / "c.nii.gz")
    with pytest.raises(ValueError, match=r"no reference in .*gt for c.nii.gz; no prediction for b.nii.gz"):
        pair_files(gt, predicted, NIFTI)
    (predicted / "c.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"no prediction for b.nii.gz; --chill leaves them out"):
        pair_files(gt, predicted, NIFTI)
    assert [pair.name for pair in pair_files(gt, predicted, NIFTI, only_predicted=True).pairs] == ["a"]
    (predicted / "a.nii.gz").unlink()
    with pytest.raises(ValueError, match="no prediction .*of any reference"):
        pair_files(gt, predicted, NIFTI, only_predicted=True)
    with pytest.raises(FileNotFoundError, match=r"gt holds no file \*.mha"):
        pair_files(gt, predicted, {"file_ending": ".mha"})
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        pair_files(gt, gt / "nowhere", NIFTI)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"labels": CUBE[1:]}, r"shape \[9, 12, 14\] and \[10, 12, 14\]"),
        ({"spacing": (0.5, 1.0, 2.0)}, "spacing 2×1×0.5 and 3×1×0.5 mm"),
        ({"origin": (0, 0, 3)}, "voxels lie up to 3 mm apart"),
        ({"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}, "direction: voxels lie up to 13 mm apart"),
    ],
)
def test_another_geometry_is_named(gt, predicted, changed, difference):
    write(predicted / "b.nii.gz", **changed)
    folder = pair_files(gt, predicted, NIFTI)
    assert [pair.name for pair in folder.pairs] == ["a"] and folder.bad.keys() == {"b"}
    assert re.search(rf"b.nii.gz: prediction and reference differ in .*{difference}", folder.bad["b"])


def test_headers_may_be_rounded(gt, predicted):
    write(predicted / "b.nii.gz", SHIFTED, spacing=(0.50001, 1.0, 3.00002), origin=(0.003, 0, 0))
    assert len(pair_files(gt, predicted, NIFTI).pairs) == 2


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_distances_are_in_mm_in_every_format(tmp_path, ending):
    write(tmp_path / "gt" / f"a{ending}")
    write(tmp_path / "predicted" / f"a{ending}", SHIFTED)
    (tmp_path / "predicted" / "dataset.json").write_text("{}")
    (tmp_path / "predicted" / "summary.json").write_text("{}")
    assert file_ending(tmp_path / "gt") == ending
    assert hd95(tmp_path / "gt", tmp_path / "predicted", {"file_ending": ending}) == (6, "mm")


@pytest.mark.parametrize("reader", READERS)
def test_axes_follow_the_reader(tmp_path, reader):
    """An image whose first axis in the file runs from head to foot."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -3.0, 1.0, 0.5, 1
    for folder, labels in (("gt", CUBE), ("predicted", SHIFTED)):
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / folder / "a.nii.gz")
    description = NIFTI | {"overwrite_image_reader_writer": reader}
    assert hd95(tmp_path / "gt", tmp_path / "predicted", description) == (6, "mm")


SHEARED = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
MICRONS = np.diag([500.0, 1000, 3000, 1])
ACDC = np.diag([1.3, 1.3, 10.0, 1])  # its qform; its sform is of 1 mm


def write_nifti(file: Path, affine: np.ndarray, labels=CUBE, sform=None, unit: str = "mm") -> None:
    file.parent.mkdir(exist_ok=True)
    image = nibabel.Nifti1Image(labels.T, None)
    if affine is not SHEARED:  # which a qform cannot be
        image.set_qform(affine, 1)
    image.set_sform(affine if sform is None else sform, 1)
    image.header.set_xyzt_units(unit)
    nibabel.save(nibabel.Nifti1Image(labels.T, None, image.header), file)


@pytest.mark.parametrize(
    ("reader", "header", "message"),
    [
        ("SimpleITKIO", {"affine": SHEARED}, "axes are sheared"),
        ("NibabelIO", {"affine": SHEARED}, "axes are sheared"),
        ("NibabelIO", {"affine": MICRONS, "unit": "micron"}, "in microns"),
        ("NibabelIO", {"affine": ACDC, "sform": np.diag([0, 1.3, 10, 1])}, "axes the lengths 0×1.3×10"),
        ("NibabelIO", {"affine": ACDC, "sform": np.diag([np.nan, 1.3, 10, 1])}, "axes the lengths nan×1.3×10"),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_whose_spacing_gives_no_distances_is_refused(tmp_path, reader, header, message, ending):
    for folder in ("gt", "predicted"):
        write_nifti(tmp_path / folder / f"a{ending}", **header)
    description = {"file_ending": ending, "overwrite_image_reader_writer": reader}
    with pytest.raises(ValueError, match=f"none of 1 cases .*a{ending}.*{message}"):
        pair_files(tmp_path / "gt", tmp_path / "predicted", description)


@pytest.mark.parametrize("reader", READERS)
def test_a_header_that_contradicts_itself_is_measured_as_nnunet_reads_it(tmp_path, reader):
    """ACDC's, beside the predictions that nnU-Net writes for it."""
    gt, predicted = tmp_path / "gt" / "a.nii.gz", tmp_path / "predicted" / "a.nii.gz"
    write_nifti(gt, ACDC, sform=np.eye(4))
    predicted.parent.mkdir()
    of_nnunet = recursive_find_reader_writer_by_name(reader)()
    labels, properties = of_nnunet.read_seg(str(gt))
    of_nnunet.write_seg(np.roll(labels[0], 2, axis=0), str(predicted), properties)
    assert properties["spacing"] == pytest.approx([10, 1.3, 1.3])
    description = NIFTI | {"overwrite_image_reader_writer": reader}
    assert hd95(gt.parent, predicted.parent, description) == (20, "mm")
    (note,) = pair_files(gt.parent, predicted.parent, description).notes
    assert reader in note and "a.nii.gz: spacing 10×1.3×1.3, affine of voxels of 1×1×1 mm" in note


def test_headers_that_contradict_each_other_are_not_decided(tmp_path):
    write_nifti(tmp_path / "gt" / "a.nii.gz", ACDC, sform=np.eye(4))
    write_nifti(tmp_path / "predicted" / "a.nii.gz", np.eye(4))
    with pytest.raises(ValueError, match="a.nii.gz: .*differ in spacing 1×1×1 and 10×1.3×1.3 mm"):
        pair_files(tmp_path / "gt", tmp_path / "predicted", NIFTI)


def test_itk_reads_units(tmp_path):
    for folder, labels in (("gt", CUBE), ("predicted", SHIFTED)):
        write_nifti(tmp_path / folder / "a.nii.gz", MICRONS, labels, unit="micron")
    assert hd95(tmp_path / "gt", tmp_path / "predicted", NIFTI) == (pytest.approx(6), "mm")


def test_sheared_axes_of_other_formats_are_refused(tmp_path):
    for folder in ("gt", "predicted"):
        write(tmp_path / folder / "a.mha", direction=(1, 0.3, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(ValueError, match="a.mha: its axes are sheared"):
        pair_files(tmp_path / "gt", tmp_path / "predicted", {"file_ending": ".mha"})


def break_link(file: Path) -> None:
    file.unlink()
    file.symlink_to(".git/annex/objects/x")


@pytest.mark.parametrize("folder", ["gt", "predicted"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.write_bytes(b"not an image"), "is damaged, or no image"),
        (break_link, "is a link to .git/annex/objects/x, which is not there"),
    ],
)
def test_what_cannot_be_opened_is_named_and_the_rest_is_paired(gt, predicted, folder, damage, says):
    file = gt.parent / folder / "a.nii.gz"  # the first one, by which nnU-Net chooses its reader
    damage(file)
    paired = pair_files(gt, predicted, NIFTI)
    assert [pair.name for pair in paired.pairs] == ["b"] and paired.bad.keys() == {"a"}
    assert re.search(f"{folder}/a.nii.gz.*{says}", paired.bad["a"])


@pytest.mark.parametrize("folder", ["gt", "predicted"])
def test_two_files_of_a_case_are_refused_by_name(gt, predicted, folder):
    nibabel.save(nibabel.Nifti1Image(CUBE, np.eye(4)), gt.parent / folder / "b.nii")
    with pytest.raises(ValueError, match=f"{folder}/b.nii.gz stands beside b.nii"):
        pair_files(gt, predicted, NIFTI)


def test_files_of_macos_are_not_counted(gt, predicted):
    (gt / "._a.nii.gz").write_bytes(b"apple")
    folder = pair_files(gt, predicted, NIFTI)
    assert len(folder.pairs) == 2 and not folder.bad
    assert "macOS" in folder.notes[0] and "._a.nii.gz" in folder.notes[0]


def write_tif(folder: Path, case: str, labels: np.ndarray, spacing: list | None) -> None:
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / f"{case}.tif", labels)
    if spacing:
        (folder / f"{case}.json").write_text(json.dumps({"spacing": spacing}))


TIF = {"file_ending": ".tif"}


@pytest.mark.parametrize(
    ("of_gt", "of_prediction", "expected"),
    [
        ([3, 1, 0.5], [3, 1, 0.5], (6, "mm")),
        (None, [3, 1, 0.5], (6, "mm")),  # nnU-Net writes it beside predictions
        ([3, 1, 0.5], None, (6, "mm")),
        (None, None, (2, "voxels")),
    ],
)
def test_the_spacing_of_tif_is_that_of_its_companion(tmp_path, of_gt, of_prediction, expected, capsys):
    write_tif(tmp_path / "gt", "a.b", CUBE, of_gt)
    write_tif(tmp_path / "predicted", "a.b", SHIFTED, of_prediction)
    assert hd95(tmp_path / "gt", tmp_path / "predicted", TIF) == expected
    assert capsys.readouterr().out == ""


def test_companions_that_disagree_or_lack_are_named(tmp_path):
    gt, predicted = tmp_path / "gt", tmp_path / "predicted"
    for case in "ab":
        write_tif(gt, case, CUBE, [3, 1, 0.5])
        write_tif(predicted, case, CUBE, [3, 1, 0.5])
    write_tif(predicted, "b", CUBE, [1, 1, 1])
    assert "spacing 1×1×1 and 3×1×0.5 mm" in pair_files(gt, predicted, TIF).bad["b"]
    for folder in (gt, predicted):
        (folder / "b.json").unlink()
    with pytest.raises(ValueError, match="no spacing is known for b, but"):
        pair_files(gt, predicted, TIF)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "a.json beside it"),
        ('{"spacing": [1, 1]}', "a.json beside it"),
        ('{"spacing": [0, 1, 1]}', "size of 0×1×1 mm"),
        ('{"spacing": [1, NaN, 1]}', "size of 1×nan×1 mm"),
    ],
)
def test_a_companion_without_a_spacing_is_named(tmp_path, content, says):
    for folder in ("gt", "predicted"):
        write_tif(tmp_path / folder, "a", CUBE, None)
    (tmp_path / "gt" / "a.json").write_text(content)
    with pytest.raises(ValueError, match=f"gt/a.tif: .*{says}"):
        pair_files(tmp_path / "gt", tmp_path / "predicted", TIF)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_pictures_are_measured_in_pixels_in_their_plane(tmp_path, ending):
    square = np.zeros((20, 30), np.uint8)
    square[5:15, 5:15] = 1
    for folder, labels in (("gt", square), ("predicted", np.roll(square, 2, axis=1))):
        (tmp_path / folder).mkdir()
        imsave(tmp_path / folder / f"a{ending}", labels, check_contrast=False)
        (tmp_path / folder / "a.json").write_text("{}")  # nnU-Net's reader of pictures looks at none
    assert hd95(tmp_path / "gt", tmp_path / "predicted", {"file_ending": ending}) == (2, "voxels")


def test_plane_images_of_medical_formats_are_measured_in_mm(tmp_path):
    write(tmp_path / "gt" / "a.mha", CUBE[3], spacing=(0.5, 1.5))
    write(tmp_path / "predicted" / "a.mha", np.roll(CUBE[3], 1, axis=0), spacing=(0.5, 1.5))
    folder = pair_files(tmp_path / "gt", tmp_path / "predicted", {"file_ending": ".mha"})
    summary = evaluate_folder(folder, Classes({1: "cube"}))
    assert summary["mean"]["1"]["HD95"] == 1.5
    assert summary["definitions"]["volume_error"]["unit"] == "mm²"


def test_colours_are_no_labels(tmp_path):
    for folder in ("gt", "predicted"):
        (tmp_path / folder).mkdir()
        imsave(tmp_path / folder / "a.png", np.zeros((20, 30, 3), np.uint8), check_contrast=False)
    with pytest.raises(ValueError, match="a.png has 3 channels: a label map has one"):
        hd95(tmp_path / "gt", tmp_path / "predicted", {"file_ending": ".png"})


def test_the_ending_of_a_folder_must_be_clear(gt):
    (gt / "notes.txt").touch()
    assert file_ending(gt) == ".nii.gz"
    write(gt / "c.mha")
    with pytest.raises(ValueError, match=".mha, .nii.gz: name the dataset.json"):
        file_ending(gt)

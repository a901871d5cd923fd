"""Files that the library of their format has written, then cut or changed: ITK reads most of them without a word."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnunet_topomae.data.raw_images import DamagedImageError, image_fault, require_whole, require_whole_dataset

VOXELS = np.zeros((20, 32, 24), np.int16)
VOXELS[5:15, 8:24, 8:16] = np.random.default_rng(0).integers(1, 4, (10, 16, 8))


def nifti(file: Path, voxels=VOXELS, image_class=nibabel.Nifti1Image, order: str = "<") -> None:
    header = image_class.header_class(endianness=order)
    nibabel.save(image_class(voxels.astype(f"{order}i2"), np.eye(4), header), file)


def itk(file: Path, compressed: bool = False) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(file), compressed)


def pages(file: Path) -> None:
    with tifffile.TiffWriter(file) as tif:
        for slice_ in VOXELS.astype(np.uint8):
            tif.write(slice_, metadata=None, contiguous=False)


def picture(file: Path) -> None:
    Image.fromarray((60 * VOXELS[8]).astype(np.uint8)).save(file)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "nifti": ("a.nii", nifti),
    "nifti, gzip": ("a.nii.gz", nifti),
    "nifti-2, gzip": ("a.nii.gz", lambda file: nifti(file, image_class=nibabel.Nifti2Image)),
    "nifti, big-endian": ("a.nii", lambda file: nifti(file, order=">")),
    "nifti, not compressed in spite of its name": ("a.nii.gz", lambda file: nifti_as(file, "b.nii")),
    "upper case": ("A.NII.GZ", lambda file: nifti_as(file, "b.nii.gz")),
    "mha": ("a.mha", itk),
    "mha, zlib": ("a.mha", lambda file: itk(file, True)),
    "nrrd": ("a.nrrd", itk),
    "nrrd, gzip": ("a.nrrd", lambda file: itk(file, True)),
    "gipl": ("a.gipl", itk),
    "png": ("a.png", picture),
    "bmp": ("a.bmp", picture),
    "tif": ("a.tif", lambda file: tifffile.imwrite(file, VOXELS)),
    "tif, zlib": ("a.tif", lambda file: tifffile.imwrite(file, VOXELS, compression="zlib")),
    "tif of pages": ("a.tif", pages),
}
CHECKSUMMED = [kind for kind in WRITERS if kind in ("upper case", "png") or "gzip" in kind or "zlib" in kind]


def nifti_as(file: Path, name: str) -> None:
    nifti(file.with_name(name))
    file.with_name(name).rename(file)


def written(tmp_path: Path, kind: str) -> Path:
    name, write = WRITERS[kind]
    write(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("part", [0.002, 0.02, 0.3, 0.6, 0.95])
def test_a_cut_file_is_found(tmp_path, kind, part):
    file = written(tmp_path, kind)
    content = file.read_bytes()
    assert image_fault(file) == ""
    file.write_bytes(content[: int(part * len(content))])
    assert image_fault(file)
    with pytest.raises(DamagedImageError, match=f"{file.name} "):
        require_whole([file])


def test_a_name_that_is_no_text_does_not_end_the_process(tmp_path):
    """ITK would abort; archives of other systems have such names."""
    file = tmp_path / os.fsdecode(b"M\xfcller.nii.gz")
    try:
        nifti_as(file, "b.nii.gz")
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    assert "not UTF-8" in image_fault(file)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_what_is_no_nifti_is_called_so(tmp_path, compress):
    (tmp_path / "a.nii.gz").write_bytes(compress(b"<html>404: not found</html>" * 20))
    assert "is no NIfTI file" in image_fault(tmp_path / "a.nii.gz")


def read(file: Path) -> np.ndarray:
    """By the library of the format."""
    name = file.name.lower()
    if name.endswith(".nii.gz"):
        return np.asarray(nibabel.load(file).dataobj)
    if name.endswith(".tif"):
        return tifffile.imread(file)
    return np.asarray(Image.open(file)) if name.endswith(".png") else sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.mark.parametrize("kind", CHECKSUMMED)
def test_a_changed_bit_is_found_where_there_is_a_checksum(tmp_path, kind):
    """Some mean nothing: two codes may stand for one run of zeros."""
    file = written(tmp_path, kind)
    content, voxels, found = file.read_bytes(), read(file), 0
    for position in range(len(content) // 3, len(content), len(content) // 60):
        changed = bytearray(content)
        changed[position] ^= 0x40
        file.write_bytes(changed)
        if image_fault(file):
            found += 1
        else:
            np.testing.assert_array_equal(read(file), voxels)
    assert found > 10


@pytest.mark.parametrize("kind", ["nifti", "nifti, big-endian", "gipl"])
def test_more_voxels_than_the_header_says_are_found(tmp_path, kind):
    file = written(tmp_path, kind)
    content = file.read_bytes()
    file.write_bytes(content + content)
    assert image_fault(file)


def test_a_stream_in_several_parts_is_one(tmp_path):
    """As bgzip and pigz write it, and as tar pads it."""
    nifti(tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").unlink()
    file, parts = tmp_path / "a.nii.gz", (gzip.compress(content[:9000]), gzip.compress(content[9000:]))
    file.write_bytes(b"".join(parts) + bytes(512))
    assert image_fault(file) == "" and nibabel.load(file).get_fdata().sum() == VOXELS.sum()
    for damaged in (parts[0], parts[0] + b"x" + parts[1], b"".join(parts) + b"garbage", parts[0] + parts[1][:-4]):
        file.write_bytes(damaged)
        assert image_fault(file)


@pytest.mark.parametrize(
    ("header", "voxels", "compressed"),
    [("a.mhd", "a.raw", False), ("a.mhd", "a.zraw", True), ("a.nhdr", "a.raw", False), ("a.hdr", "a.img", False)],
)
def test_voxels_in_a_file_of_their_own_are_looked_at(tmp_path, header, voxels, compressed):
    itk(tmp_path / header, compressed)
    assert image_fault(tmp_path / header) == ""
    content = (tmp_path / voxels).read_bytes()
    (tmp_path / voxels).write_bytes(content[:-9])
    assert "cut off" in image_fault(tmp_path / header)
    (tmp_path / voxels).unlink()
    assert image_fault(tmp_path / header)


def test_a_raw_dataset_is_whole_or_its_damaged_files_are_named(tmp_path):
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "labels": {}, "file_ending": ".nii.gz"}')
    for name in ("imagesTr/a_0000", "labelsTr/a", "imagesTs/b_0000"):
        (tmp_path / name).parent.mkdir()
        nifti(tmp_path / f"{name}.nii.gz")
    require_whole_dataset(tmp_path)
    for name in ("labelsTr/a", "imagesTs/b_0000"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"no image")
    with pytest.raises(DamagedImageError, match="labelsTr/a.nii.gz .*imagesTs/b_0000.nii.gz "):
        require_whole_dataset(tmp_path)
    (tmp_path / "imagesTr" / "._a_0000.nii.gz").touch()
    with pytest.raises(DamagedImageError, match="macOS"):
        require_whole_dataset(tmp_path)

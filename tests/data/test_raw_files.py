from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnunet_topomae.data.raw_files import apples_note, file_fault, images_by_case, labels_by_case


def test_names_are_no_patterns_and_only_whole_names_count(tmp_path: Path) -> None:
    for name in ("a", "a.3", "a[1]", "*", "a_seg", "b_0000"):
        (tmp_path / f"{name}_0001.tif").touch()
        (tmp_path / f"{name}_0000.tif").touch()
    for other in ("a.json", "a_0000.json", "a_0000.tiff", "a_000.tif", "a_00000.tif", "a_00x0.tif", "a-0000.tif"):
        (tmp_path / other).touch()
    images = images_by_case(tmp_path, ".tif")
    assert sorted(images) == sorted(["a", "a.3", "a[1]", "*", "a_seg", "b_0000"])
    for case, channels in images.items():
        assert list(channels) == [0, 1]
        assert [file.name for file in channels.values()] == [f"{case}_0000.tif", f"{case}_0001.tif"]


def test_labels_are_what_ends_in_the_ending(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a[1].nii.gz", "a.3.nii.gz", "c.nii", "a.json", "._b.nii.gz"):
        (tmp_path / name).touch()
    assert list(labels_by_case(tmp_path, ".nii.gz")) == ["a.3", "a[1]", "b"]
    assert labels_by_case(tmp_path / "nowhere", ".nii.gz") == {}
    assert "._b.nii.gz" in apples_note(tmp_path, ".nii.gz") and "macOS" in apples_note(tmp_path, ".nii.gz")
    assert apples_note(tmp_path, ".nii") == "" == apples_note(tmp_path / "nowhere", ".nii.gz")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda file: file.write_bytes(b"x"), ""),
        (lambda file: file.symlink_to(".git/annex/objects/x"), r"link to .*annex.*`git annex get`"),
        (lambda file: file.symlink_to(file), "link to .*not there"),
        (lambda file: file.mkdir(), "is no file"),
        (lambda file: file.touch(), "is empty"),
        (lambda file: None, "does not exist"),
        (lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "pointer.*git lfs pull"),
        (lambda file: file.write_bytes(b"/annex/objects/SHA256E-s9--0.nii.gz\n"), "pointer.*git annex get"),
    ],
)
def test_what_is_no_file_says_why(tmp_path: Path, make, fault: str) -> None:
    make(tmp_path / "a.nii.gz")
    found = file_fault(tmp_path / "a.nii.gz")
    assert re.search(fault, found) if fault else not found


@pytest.mark.parametrize(
    ("one", "other"), [("a.nii", "a.nii.gz"), ("a.nii.gz", "a.nii"), ("A.NII.GZ", "A.NII"), ("a.nii", "a.nii.GZ")]
)
def test_two_files_of_which_itk_may_open_either_are_named(tmp_path: Path, one: str, other: str) -> None:
    for name in (one, other, "b.nii.gz", "a.mha", "a.json"):
        (tmp_path / name).write_bytes(b"x")
    assert f"stands beside {other}" in file_fault(tmp_path / one)
    assert not file_fault(tmp_path / "b.nii.gz") and not file_fault(tmp_path / "a.mha")

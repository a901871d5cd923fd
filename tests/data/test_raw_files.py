from __future__ import annotations

from pathlib import Path

from nnunet_topomae.data.raw_files import images_by_case, labels_by_case


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
    for name in ("b.nii.gz", "a[1].nii.gz", "a.3.nii.gz", "c.nii", "a.json"):
        (tmp_path / name).touch()
    assert list(labels_by_case(tmp_path, ".nii.gz")) == ["a.3", "a[1]", "b"]
    assert labels_by_case(tmp_path / "nowhere", ".nii.gz") == {}

"""What a full disk, a writer that fails and a kill leave behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_topomae.files import read_json, write_json, written_whole


def test_a_file_that_cannot_be_written_leaves_the_one_before_and_is_named(tmp_path: Path) -> None:
    file = write_json(tmp_path / "a.json", {"kept": 1})
    with pytest.raises(OSError, match="a.json could not be written: No space left"), written_whole(file) as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert read_json(file) == {"kept": 1} and list(tmp_path.iterdir()) == [file]


def test_what_is_no_json_is_not_begun(tmp_path: Path) -> None:
    file = write_json(tmp_path / "a.json", {"kept": 1})
    circle: list = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        write_json(file, circle)
    assert read_json(file) == {"kept": 1} and list(tmp_path.iterdir()) == [file]


def test_a_library_finds_the_format_by_the_name_that_it_is_given(tmp_path: Path) -> None:
    with written_whole(tmp_path / "case.1.nii.gz") as partial:
        assert partial.name.endswith(".nii.gz") and partial.parent == tmp_path
        partial.write_bytes(b"voxels")
    assert [file.name for file in tmp_path.iterdir()] == ["case.1.nii.gz"]

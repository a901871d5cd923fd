from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_topomae.data.dataset_json import channel_names, read_dataset_json

CONTENT = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": 3}


def write(folder: Path, **changes) -> None:
    content = {key: value for key, value in (CONTENT | changes).items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content))


def test_channels_may_be_called_modality_as_in_nnunets_first_version(tmp_path: Path) -> None:
    write(tmp_path)
    assert read_dataset_json(tmp_path) == CONTENT
    write(tmp_path, channel_names=None, modality={"0": "T1", "1": "T2"})
    assert read_dataset_json(tmp_path)["channel_names"] == {"0": "T1", "1": "T2"}


def test_cases_that_are_listed_are_counted(tmp_path: Path) -> None:
    write(tmp_path, numTraining=None, dataset={"a": {"images": [], "label": ""}, "b": {"images": [], "label": ""}})
    assert read_dataset_json(tmp_path)["numTraining"] == 2
    (tmp_path / "dataset_fingerprint.json").write_text(json.dumps({"spacings": [[1, 1, 1]] * 5}))
    assert read_dataset_json(tmp_path)["numTraining"] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds no object"),
        ("{,}", "dataset.json is no valid JSON"),
        ("{}", "has no file_ending nor labels"),
        ('{"labels": {}, "file_ending": ".mha"}', "has no channel_names"),
        ('{"labels": {}, "file_ending": ".mha", "channel_names": ["CT"]}', "has no channel_names"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_dataset_json(tmp_path)


def test_numbers_of_channels_become_text() -> None:
    assert channel_names({"channel_names": {0: "CT"}}) == {"0": "CT"}

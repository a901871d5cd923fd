"""nnU-Net's description of a dataset, in today's spelling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_topomae.files import read_json


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """The dataset.json of a raw dataset, or the copy that nnU-Net's planner puts beside the plans.

    In today's spelling: with `channel_names`, which nnU-Net takes under its older name `modality`, too, and with
    `numTraining`, which it can do without: it counts the cases listed (`dataset`), or those of its fingerprint.

    Raises:
        OSError: no such file.
        ValueError: it is not what nnU-Net wants.
    """
    file = folder / "dataset.json"
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no object: see nnU-Net's documentation/dataset_format.md")
    missing = [key for key in ("file_ending", "labels") if key not in content]
    if missing:
        raise ValueError(f"{file} has no {' nor '.join(missing)}: see nnU-Net's documentation/dataset_format.md")
    content["channel_names"] = channel_names(content)
    if "numTraining" not in content:
        fingerprint = folder / "dataset_fingerprint.json"
        counted = read_json(fingerprint)["spacings"] if fingerprint.is_file() else content.get("dataset", ())
        content["numTraining"] = len(counted)
    return content


def channel_names(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Names of the channels by number. Raises ValueError where dataset.json does not have them."""
    for key in ("channel_names", "modality"):
        names = dataset_json.get(key)
        if isinstance(names, Mapping):
            return {str(number): name for number, name in names.items()}
    raise ValueError("dataset.json has no channel_names: see nnU-Net's documentation/dataset_format.md")

"""The cine MRIs of the ACDC challenge to nnU-Net's raw format.

nnU-Net's own command for them, `Dataset027_ACDC`, fails in 2.8, where its folders are no longer strings; what it copies
is copied here, without the split that it writes.
"""

from __future__ import annotations

from pathlib import Path

from nnunetv2.dataset_conversion.Dataset027_ACDC import copy_files
from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

from nnunet_topomae.data.conversion.new_dataset import new_dataset
from nnunet_topomae.data.raw_images import require_whole

LABELS = {"background": 0, "RV": 1, "MLV": 2, "LVC": 3}


def convert_acdc(source: str | Path, raw: str | Path, dataset_id: int) -> Path:
    """Write `Dataset<ID>_ACDC`, cases patient001_frame01, ..., byte for byte; return its folder.

    Args:
        source: the folder with `training` and `testing`, of which each patient has a folder.
        raw: nnU-Net's folder of raw datasets.
        dataset_id: of nnU-Net.

    Raises:
        FileExistsError: nnU-Net has a dataset with this id.
        FileNotFoundError: no such folders.
        ValueError: damaged files.
    """
    source, raw = Path(source), Path(raw)
    files = {part: sorted((source / part).glob("patient*/*_frame*.nii.gz")) for part in ("training", "testing")}
    if empty := [part for part, found in files.items() if not found]:
        where = source / empty[0]
        raise FileNotFoundError(f"no patient*/*_frame*.nii.gz in {where}: name the folder with training and testing")
    with new_dataset(raw, dataset_id, "ACDC") as dataset:
        require_whole([file for found in files.values() for file in found])
        folders = [dataset / name for name in ("imagesTr", "labelsTr", "imagesTs")]
        for folder in folders:
            folder.mkdir()
        number = copy_files(source, *folders)
        generate_dataset_json(
            str(dataset), {0: "cineMRI"}, LABELS, num_training_cases=number, file_ending=".nii.gz", dataset_name="ACDC"
        )
    return raw / dataset.name

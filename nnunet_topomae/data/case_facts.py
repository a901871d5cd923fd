"""What is known of preprocessed cases without looking at them again."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from nnunetv2.configuration import default_num_processes
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_topomae.data.fingerprint import voxel_fingerprint


def read_fingerprints(dataset: nnUNetBaseDataset, cases: Sequence[str]) -> dict[str, str]:
    """Of the image of each case."""
    with ThreadPoolExecutor(default_num_processes) as pool:
        values = pool.map(lambda case: voxel_fingerprint(dataset.load_case(case)[0]), cases)
        return dict(zip(cases, values, strict=True))

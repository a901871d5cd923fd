"""Looks at every image before a training starts, so that a bad one is an error at once and not after a night."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from tqdm import tqdm

MAX_THREADS = 4  # decompression releases the interpreter lock, and each thread holds one whole volume


def check_images(dataset: nnUNetBaseDataset, identifiers: Sequence[str]) -> None:
    """Raises ValueError that names every case whose preprocessed image is unreadable, not finite or constant."""
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        faults = list(
            tqdm(
                pool.map(lambda key: _fault(dataset, key), identifiers),
                total=len(identifiers),
                desc="Checking images",
                disable=None,
            )
        )
    bad = [f"  {key}: {fault}" for key, fault in zip(identifiers, faults, strict=True) if fault]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(identifiers)} preprocessed images in {dataset.source_folder} cannot be trained on:\n"
            + "\n".join(bad)
            + "\nRepair the raw images and preprocess again, or take the cases out of the split."
        )


def check_previous_stage(folder: str | Path, identifiers: Sequence[str], command: str) -> None:
    """Raises FileNotFoundError where a cascade's previous stage has not segmented every case.

    Args:
        folder: where its validation leaves them, one file a case.
        identifiers: the cases that the next stage is to be trained on.
        command: what trains the previous stage.
    """
    present = {file.stem for file in Path(folder).glob("*")}
    missing = [key for key in identifiers if key not in present]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks segmentations of the previous stage for {len(missing)} of {len(identifiers)} cases: "
            f"{', '.join(missing)}. Validation writes them, each fold those of its own validation cases. Train every "
            f"fold of the previous stage, or fold all:\n  {command}"
        )


def _fault(dataset: nnUNetBaseDataset, key: str) -> str | None:
    try:
        image = dataset.load_case(key)[0][:]
    except Exception as error:  # a truncated file fails in as many ways as there are readers
        return f"cannot be read ({type(error).__name__}: {error})"
    non_finite = image.size - np.count_nonzero(np.isfinite(image))
    if non_finite:
        return f"{non_finite} voxels are NaN or infinite"
    if image.min() == image.max():
        return f"constant, every voxel is {image.flat[0]:g}"
    return None

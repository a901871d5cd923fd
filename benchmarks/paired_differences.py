"""Draws docs/images/paired_differences.png: what `nnunet-topomae evaluate` draws of several folders.

    python benchmarks/paired_differences.py docs/images/paired_differences.png

Twelve phantoms; each class of a prediction is the reference's, moved by normally distributed numbers of voxels.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_topomae.cli import main
from nnunet_topomae.data.phantom import LABELS, write_phantom_dataset

SHIFTS = {"baseline": 1.6, "small_shifts": 1.0, "large_shifts": 2.5}  # standard deviation, in voxels of each axis


def moved(labels: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    prediction = np.zeros_like(labels)
    for label in range(1, len(LABELS)):
        steps = np.rint(rng.normal(0, shift, 3))
        prediction[ndimage.shift(labels == label, steps, order=0)] = label
    return prediction


def draw(picture: str) -> None:
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_phantom_dataset(folder, 0, 12, seed=0)
        for name, shift in SHIFTS.items():
            (folder / name).mkdir()
            for file in sorted((folder / "labelsTs").iterdir()):
                reference = sitk.ReadImage(str(file))
                prediction = sitk.GetImageFromArray(moved(sitk.GetArrayFromImage(reference), shift, rng))
                prediction.CopyInformation(reference)
                sitk.WriteImage(prediction, str(folder / name / file.name))
        folders = [str(folder / name) for name in ("labelsTs", *SHIFTS)]
        main(["evaluate", *folders, "-djfile", str(folder / "dataset.json"), "-o", str(folder / "comparison.json")])
        shutil.copyfile(folder / "comparison.png", picture)


if __name__ == "__main__":
    draw(*sys.argv[1:])

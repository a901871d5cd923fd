"""A synthetic change of scanner: labels from images as they are, unlabelled and validation images from "another one".

    python benchmarks/other_scanner.py RAW/Dataset004_Hippocampus RAW/Dataset104_OtherScanner --labels 4 8 [--invert]

A gamma of 0.6, a bias field and a blur of 0.8 voxels are applied once and for all to every case that no split with
these numbers of labels has a label of. The copy has its own few_label_splits.json, for `few_labels.py`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from skimage.exposure import adjust_gamma, rescale_intensity

GAMMA, BLUR = 0.6, 0.8
BIAS, BIAS_SMOOTHNESS = 0.2, 0.25  # standard deviation of its logarithm; its σ, of the image's sides


def other_scanner(image: np.ndarray, invert: bool, seed: int) -> np.ndarray:
    """[D, H, W] float32 in the range of `image`; `seed` draws the bias field."""
    lowest, highest = float(image.min()), float(image.max())
    unit = adjust_gamma(rescale_intensity(image.astype(np.float32), out_range=(0.0, 1.0)), GAMMA)
    field = np.random.default_rng(seed).normal(size=image.shape)
    field = gaussian_filter(field, [BIAS_SMOOTHNESS * side for side in image.shape])
    changed = gaussian_filter(unit * np.exp(BIAS * (field - field.mean()) / field.std()), BLUR)
    changed = rescale_intensity(-changed if invert else changed, out_range=(lowest, highest))
    return changed.astype(np.float32)


def write_dataset(source: Path, target: Path, numbers: list[int], invert: bool) -> None:
    """The raw dataset `source`, changed where no label will be seen; `target` must not exist."""
    splits = {str(k): json.loads((source / "few_label_splits.json").read_text())[str(k)] for k in numbers}
    as_they_are = {case for split in splits.values() for case in split["labelled"]}
    description = json.loads((source / "dataset.json").read_text())
    ending = description["file_ending"]
    shutil.copytree(source / "labelsTr", target / "labelsTr")
    (target / "imagesTr").mkdir()
    for file in sorted((source / "imagesTr").iterdir()):
        case = file.name.removesuffix(ending).rpartition("_")[0]
        if case in as_they_are:
            shutil.copy(file, target / "imagesTr")
            continue
        image = sitk.ReadImage(str(file))
        seed = zlib.crc32(case.encode())  # the coil is the same for all channels
        changed = sitk.GetImageFromArray(other_scanner(sitk.GetArrayFromImage(image), invert, seed))
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(target / "imagesTr" / file.name))
    (target / "few_label_splits.json").write_text(json.dumps(splits, indent=1))
    (target / "dataset.json").write_text(json.dumps(description | {"name": target.name}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--labels", type=int, nargs="+", default=[4, 8], metavar="K", help="default: 4 8")
    parser.add_argument("--invert", action="store_true", help="contrast inverted, too: the hard case")
    options = parser.parse_args()
    if options.target.exists():
        sys.exit(f"{options.target} exists already: name another folder")
    write_dataset(options.source, options.target, options.labels, options.invert)


if __name__ == "__main__":
    main()

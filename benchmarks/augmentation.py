"""nnU-Net's augmentation by a data worker's code and by the device's, on one core, into docs/benchmarks.md.

    python benchmarks/augmentation.py [--patch 40 56 40] [--blocks 5] [--samples 100]

The pipeline is what nnUNetTrainer returns for a 3D plan with deep supervision. Each sample is augmented twice, with the
same random numbers: by nnU-Net's own transforms, as a data worker does, and by the two halves of `augment_on=device`,
both on the CPU. They take turns in going first. CPU time of this process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from machine import REPOSITORY, machine, replace_section
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_topomae.augmentation.pipeline import split_pipeline

PACKAGES = ("torch", "nnunetv2", "batchgeneratorsv2")
ROTATION, SCALING = (-np.pi / 6, np.pi / 6), (0.85, 1.25)  # nnU-Net's, for a plan that is not anisotropic
SCALES = [[1, 1, 1], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
NUM_LABELS = 3


def nnunet_pipeline(patch: tuple[int, ...]) -> BasicTransform:
    return nnUNetTrainer.get_training_transforms(patch, ROTATION, SCALES, (0, 1, 2), False)


def random_sample(sides: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """What a data loader hands over: time does not depend on what the image shows."""
    labels = torch.randint(NUM_LABELS, (1, *(side // 8 + 1 for side in sides)), dtype=torch.uint8)
    for axis in (1, 2, 3):
        labels = labels.repeat_interleave(8, axis)
    return {
        "image": torch.randn(1, *sides),
        "segmentation": labels[:, : sides[0], : sides[1], : sides[2]].to(torch.int16).contiguous(),
    }


def seconds_of(augment: Callable[[dict], dict], sample: dict[str, torch.Tensor], seed: int) -> float:
    """With these random numbers."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    sample = {name: value.clone() for name, value in sample.items()}
    begin = time.process_time()
    augment(sample)
    return time.process_time() - begin


def compare(patch: tuple[int, ...], blocks: int, samples: int) -> list[float]:
    """The device's code / a worker's, of each block of so many samples."""
    worker = nnunet_pipeline(patch)
    halves = split_pipeline(nnunet_pipeline(patch))
    ways: list[Callable[[dict], dict]] = [
        lambda sample: worker(**sample),
        lambda sample: halves.on_device(**halves.in_worker(**sample)),
    ]
    sides = tuple(int(side) for side in get_patch_size(patch, *[ROTATION] * 3, SCALING))
    seconds = np.zeros((1 + blocks, 2))  # the first is to warm up
    for index in range((1 + blocks) * samples):
        sample = random_sample(sides)
        for way in (0, 1) if index % 2 else (1, 0):
            seconds[index // samples, way] += seconds_of(ways[way], sample, index)
    return (seconds[1:, 1] / seconds[1:, 0]).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=[40, 56, 40], help="default: %(default)s")
    parser.add_argument("--blocks", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=100, help="of a block (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=REPOSITORY / "docs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    patch = tuple(options.patch)
    ratios = compare(patch, options.blocks, options.samples)
    name = "×".join(map(str, patch))
    text = f"""### Augmentation on one core, patch {name}

Written by `benchmarks/augmentation.py` on {machine(PACKAGES)}.
CPU time of nnU-Net's pipeline by the code of `augment_on=device`, over that of a data worker, with the same random
numbers: {statistics.median(ratios):.2f}, the median of {options.blocks} blocks of {options.samples} samples
({min(ratios):.2f} to {max(ratios):.2f}).
"""
    replace_section(options.docs / "benchmarks.md", f"augmentation-{name}", text)
    print(text)


if __name__ == "__main__":
    main()

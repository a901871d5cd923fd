"""nnU-Net's augmentation by a data worker's code and by the device's, on one core, into docs/benchmarks.md.

    python benchmarks/augmentation.py [--patch 40 56 40] [--blocks 5] [--samples 100]

The pipeline is what nnUNetTrainer returns for a 3D plan with deep supervision. Each sample is augmented twice, with the
same random numbers: by nnU-Net's own transforms, as a data worker does, and by the two halves of `augment_on=device`,
both on the CPU. They take turns in going first. CPU time, of blocks of samples, each in a process of its own: nnU-Net's
blur chooses its way by the clock, once a process and size. The samples are crops of a phantom with four structures.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from machine import add_docs, machine, replace_section
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_topomae.augmentation.pipeline import split_pipeline
from nnunet_topomae.data.phantom import phantom_case

PACKAGES = ("torch", "nnunetv2", "batchgeneratorsv2")
ROTATION, SCALING = (-np.pi / 6, np.pi / 6), (0.85, 1.25)  # nnU-Net's, for a plan that is not anisotropic
SCALES = [[1, 1, 1], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
WARM_UP = 50  # samples that are not counted


def nnunet_pipeline(patch: tuple[int, ...]) -> BasicTransform:
    return nnUNetTrainer.get_training_transforms(patch, ROTATION, SCALES, (0, 1, 2), False)


def random_crop(volumes: dict[str, torch.Tensor], sides: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """As a data loader hands it over."""
    shape = volumes["image"].shape[1:]
    begins = [np.random.randint(length - side + 1) for length, side in zip(shape, sides, strict=True)]
    cut = (slice(None), *(slice(begin, begin + side) for begin, side in zip(begins, sides, strict=True)))
    return {name: volume[cut].contiguous() for name, volume in volumes.items()}


def seconds_of(augment: Callable[[dict], dict], sample: dict[str, torch.Tensor], seed: int) -> float:
    """With these random numbers."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    sample = {name: value.clone() for name, value in sample.items()}
    begin = time.process_time()
    augment(sample)
    return time.process_time() - begin


def ratio(patch: tuple[int, ...], samples: int, block: int) -> float:
    """CPU time of the device's code / of a worker's, for so many samples, on one thread."""
    torch.set_num_threads(1)
    worker = nnunet_pipeline(patch)
    halves = split_pipeline(nnunet_pipeline(patch))
    ways: list[Callable[[dict], dict]] = [
        lambda sample: worker(**sample),
        lambda sample: halves.on_device(**halves.in_worker(**sample)),
    ]
    sides = tuple(int(side) for side in get_patch_size(patch, *[ROTATION] * 3, SCALING))
    image, labels, _ = phantom_case(np.random.default_rng(block), 1.4 * max(sides))
    volumes = {"image": torch.from_numpy(image)[None], "segmentation": torch.from_numpy(labels.astype(np.int16))[None]}
    seconds = np.zeros((2, samples))
    for index in range(-WARM_UP, samples):
        sample = random_crop(volumes, sides)
        for way in (0, 1) if index % 2 else (1, 0):
            seconds[way, max(index, 0)] = seconds_of(ways[way], sample, block * samples + index + WARM_UP)
    return float(seconds[1].sum() / seconds[0].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=[40, 56, 40], help="default: %(default)s")
    parser.add_argument("--blocks", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=100, help="of a block (default: %(default)s)")
    add_docs(parser)
    options = parser.parse_args()
    patch = tuple(options.patch)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        tasks = [(patch, options.samples, block) for block in range(options.blocks)]
        ratios = pool.starmap(ratio, tasks, chunksize=1)
    name = "×".join(map(str, patch))
    text = f"""### Augmentation on one core, patch {name}

Written by `benchmarks/augmentation.py` on {machine(PACKAGES)}.
CPU time of nnU-Net's pipeline by the code of `augment_on=device`, over that of a data worker, with the same random
numbers, on crops of a phantom: {statistics.median(ratios):.2f}, the median of {options.blocks} blocks of
{options.samples} samples ({min(ratios):.2f} to {max(ratios):.2f}).
"""
    replace_section(options.docs / "benchmarks.md", f"augmentation-{name}", text)
    print(text)


if __name__ == "__main__":
    main()

"""What threads gain on a batch: one volume is one task, so a batch spreads over the cores. Needs an idle machine.

python benchmarks/topology_threads.py [CT]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_topomae.topology import TopologicalLoss, persistence_diagrams, pool, warm_up

CT = Path(__file__).parents[2] / "shared" / "data" / "ct" / "example_ct.nii.gz"
BATCH, REPEATS = 4, 3


def fastest(function: Callable[[], object]) -> float:
    """Least elapsed seconds of a few calls."""
    times = []
    for _ in range(REPEATS):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return min(times)


def batch(image: np.ndarray, side: int) -> np.ndarray:
    """[BATCH, side, side, side]: the image's centre with noise of 0.05."""
    centre = image[tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in image.shape)]
    return centre + 0.05 * np.random.default_rng(0).normal(size=(BATCH, *centre.shape)).astype(np.float32)


def main() -> None:
    warm_up()
    path = sys.argv[1] if len(sys.argv) > 1 else CT
    image = (np.clip(sitk.GetArrayFromImage(sitk.ReadImage(path)).astype(np.float32), -991, 362) - 50) / 141
    cores = pool.usable_cores()
    print(f"| {BATCH} volumes | one thread / {cores} threads |\n| --- | --- |")
    for side in (32, 64, 96):
        volumes = batch(image, side)
        serial = fastest(lambda volumes=volumes: [persistence_diagrams(v) for v in volumes])
        spread = fastest(lambda volumes=volumes: pool.collect([pool.submit(persistence_diagrams, v) for v in volumes]))
        print(f"| diagrams, {side}³ | {serial / spread:.2f}× |")
    target = torch.from_numpy(batch(image, 64))[:, None]
    reconstruction, loss = target + 0.1 * torch.randn_like(target), TopologicalLoss()
    spread = fastest(lambda: loss(reconstruction, target))
    pool.shutdown()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"| loss, 64³ | {fastest(lambda: loss(reconstruction, target)) / spread:.2f}× |")


if __name__ == "__main__":
    main()

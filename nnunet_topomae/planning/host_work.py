"""How long a step of pre-training keeps cores of the host busy, by what benchmarks/core_seconds.py has measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from nnunet_topomae.config import TopoMAEConfig
from nnunet_topomae.losses.topology import pretraining_topology
from nnunet_topomae.networks.geometry import Geometry
from nnunet_topomae.planning.blueprint import vit_config

READ = 3.5e-9  # core-seconds a voxel of a crop, to read and to decompress what it needs
RESAMPLE = 1.6e-8  # the same, where data workers augment besides
SMOOTH, NOISY = 0.45e-6, 1.6e-6  # core-seconds a voxel compared, of the topology of both networks


class HostWork(NamedTuple):
    """Core-seconds a step.

    Attributes:
        data: of all batches, where the GPU augments.
        augmentation: besides, where data workers augment.
        topology: mean over the steps, of smooth images and of noisy ones.
    """

    data: float
    augmentation: float
    topology: tuple[float, float]

    @classmethod
    def of(cls, geometry: Geometry, channels: int, batch_size: int, config: TopoMAEConfig) -> HostWork:
        voxels = channels * batch_size * vit_config(config).steps * int(np.prod(geometry.patch_size))
        pooled = pretraining_topology(config, geometry).pooled(torch.empty(1, 1, *geometry.patch_size, device="meta"))
        compared = pooled.numel() * channels * batch_size / config.topology_every if config.weight_topology else 0
        return cls(READ * voxels, RESAMPLE * voxels, (SMOOTH * compared, NOISY * compared))

    def __str__(self) -> str:
        total = sorted({self.data + topology for topology in self.topology})  # one number without topology
        spread = ", ".join(f"{_range(total, cores)} s with {cores}" for cores in (4, 8, 16))
        return (
            f"Estimate: a step of TopoMAEPretrainer takes {_range(total)} core-seconds of the host, "
            f"{self.augmentation:.2g} more where\ndata workers augment; spread over cores {spread} (docs/speed.md)."
        )


def _range(values: Sequence[float], divisor: int = 1) -> str:
    return " to ".join(f"{value / divisor:.2g}" for value in values)

"""Births and deaths as values of a tensor, for losses of one's own."""

from __future__ import annotations

import torch
from torch import Tensor

from .persistence import PersistenceDiagram, check_diagram


def differentiable_points(diagram: PersistenceDiagram, volume: Tensor) -> Tensor:
    """[n, 2] (birth, death) of a diagram, read from the volume that it is the diagram of, so that gradients reach it.

    A class that never dies has the infinite death of the diagram, which is a constant. The gradient is that of the
    points as long as the order of the voxels' values stays (Carrière et al., ICML 2021).

    Args:
        volume: of the diagram's shape, floating-point, on any device.

    Raises:
        ValueError: the volume has another shape than the diagram's.
        TypeError: not one diagram, or not a tensor that can have a gradient.
    """
    check_diagram(diagram)
    if not isinstance(volume, Tensor) or not volume.is_floating_point():
        kind = getattr(volume, "dtype", type(volume).__name__)
        raise TypeError(f"the volume must be a floating-point tensor, which can have a gradient; got {kind}")
    if diagram.shape is not None and tuple(volume.shape) != tuple(diagram.shape):
        raise ValueError(f"the diagram is of a volume of shape {list(diagram.shape)}, not {list(volume.shape)}")
    values = volume.reshape(-1)
    birth_voxel = torch.from_numpy(diagram.birth_voxel).to(volume.device)
    death_voxel = torch.from_numpy(diagram.death_voxel).to(volume.device)
    birth, death = values[birth_voxel], values[death_voxel.clamp(min=0)]
    never = torch.from_numpy(diagram.death).to(volume.device, volume.dtype)
    return torch.stack([birth, torch.where(death_voxel < 0, never, death)], dim=1)

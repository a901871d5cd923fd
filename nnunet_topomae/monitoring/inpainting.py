"""What a masked crop can be filled with without learning anything: the yardstick of every reconstruction."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import LaplacianNd, cg

TOLERANCE = 1e-4  # relative, of the residual: an error far below that of the inpainting itself


def harmonic_inpainting(image: torch.Tensor, voxel_mask: torch.Tensor) -> torch.Tensor:
    """Masked voxels such that each is the mean of its face neighbours (Laplace's equation), the visible as they are.

    At the border of the crop a voxel has fewer neighbours, as if nothing flowed across.

    Args:
        image: [B, C, D, H, W].
        voxel_mask: [B, 1, D, H, W] bool, True where masked; each crop has to show at least one voxel.

    Returns:
        [B, C, D, H, W] float32 on the CPU.
    """
    filled = image.detach().cpu().float().numpy().copy()
    for crop, hidden in zip(filled, voxel_mask[:, 0].cpu().numpy(), strict=True):
        _fill(crop, hidden)
    return torch.from_numpy(filled)


def _fill(crop: np.ndarray, hidden: np.ndarray) -> None:
    sides = [side for side in hidden.shape if side > 1]  # SciPy lets what lies along a side of 1 flow out
    laplacian = LaplacianNd(sides, boundary_conditions="neumann", dtype=float).tosparse().tocsr()
    rows, hidden = -laplacian[hidden.ravel()], hidden.ravel()
    inner, outer = rows[:, hidden], rows[:, ~hidden]
    for channel in crop:
        flat = channel.reshape(-1)
        flat[hidden], _ = cg(inner, -outer @ flat[~hidden], rtol=TOLERANCE)

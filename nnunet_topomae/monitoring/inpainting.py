"""What a masked crop can be filled with without learning anything: the yardstick of every reconstruction."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import cg

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
    unknown = np.full(hidden.shape, -1)
    unknown[hidden] = np.arange(hidden.sum())
    pairs = []  # of voxels that share a face: flat indices
    voxels = np.arange(hidden.size).reshape(hidden.shape)
    for axis in range(hidden.ndim):
        ahead, behind = (np.take(voxels, range(*ends), axis).ravel() for ends in _shifted(hidden.shape[axis]))
        pairs += [(ahead, behind), (behind, ahead)]
    one, other = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    is_hidden, row_of = hidden.ravel(), unknown.ravel()
    keep = is_hidden[one]
    one, other = one[keep], other[keep]
    row, inner = row_of[one], is_hidden[other]
    degree = np.bincount(row, minlength=is_hidden.sum()).astype(float)
    size = len(degree)
    neighbours = coo_matrix((np.ones(inner.sum()), (row[inner], row_of[other[inner]])), shape=(size, size))
    laplacian = (coo_matrix((degree, (np.arange(size), np.arange(size))), shape=(size, size)) - neighbours).tocsr()
    for channel in crop:
        flat = channel.reshape(-1)
        right = np.bincount(row[~inner], weights=flat[other[~inner]], minlength=size)
        solution, _ = cg(laplacian, right, rtol=TOLERANCE)
        flat[is_hidden] = solution


def _shifted(length: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, length - 1), (1, length)

"""Labels at the points of a grid: the one with the largest share of the interpolation weights."""

from __future__ import annotations

from functools import reduce
from itertools import product

import torch
from torch.nn.functional import pad

CHUNK = 2**19  # points at a time, which bounds the memory
HUNDRED_PERCENT = 1000  # batchgeneratorsv2 compares shares of this in half precision, which makes near ties exact ones


def resample_labels(segmentation: torch.Tensor, grid: torch.Tensor, outside: int | None) -> torch.Tensor:
    """What batchgeneratorsv2's SpatialTransform gives with `mode_seg="bilinear"` and `seg_tiebreak="nearest"`.

    That interpolates the indicator of each label that occurs, which takes longer the more labels there are, and has to
    read on the host which there are. Here the corners of the cell around each point vote with their weights, which
    nothing waits for. Ties go to the nearest corner's label if it is among the tied, else to the lowest.

    Args:
        segmentation: [C, *sides], two or three spatial axes.
        grid: [*shape, axes], as for `torch.nn.functional.grid_sample` with `align_corners=False`.
        outside: the label of everything outside of the segmentation; None: that of the nearest voxel inside.

    Returns:
        [C, *shape] of the segmentation's type.
    """
    sides = segmentation.shape[1:]
    margin = 0 if outside is None else 1
    padded = pad(segmentation, (margin, margin) * len(sides), value=outside or 0)
    chunks = [
        _at_points(padded, _voxel_coordinates(points, sides, clip=outside is None), margin)
        for points in grid.flatten(0, -2).split(CHUNK)
    ]
    return torch.cat(chunks, dim=1).unflatten(1, grid.shape[:-1])


def _voxel_coordinates(points: torch.Tensor, sides: torch.Size, clip: bool) -> list[torch.Tensor]:
    """For each axis the coordinates in voxels, [N]. In a grid the last axis comes first."""
    coordinates = [((points[:, -1 - axis] + 1) * side - 1) / 2 for axis, side in enumerate(sides)]
    return [x.clamp(0, side - 1) for x, side in zip(coordinates, sides, strict=True)] if clip else coordinates


def _at_points(padded: torch.Tensor, coordinates: list[torch.Tensor], margin: int) -> torch.Tensor:
    """[C, N]."""
    corners = _corner_labels(padded, [x.floor() for x in coordinates], margin)
    if padded.device.type == "cpu":  # most points lie within one label; on a GPU it would cost more to find them
        result = corners[0]
        mixed = reduce(torch.logical_or, [corner != result for corner in corners[1:]])  # `any` is slow along an axis
        for channel, voters in enumerate(mixed):
            where = voters.nonzero().squeeze(1)
            result[channel, where] = _vote(corners[:, channel, where], [x[where] for x in coordinates])
        return result
    return torch.stack([_vote(corners[:, channel], coordinates) for channel in range(len(padded))])


def _corner_labels(padded: torch.Tensor, lower: list[torch.Tensor], margin: int) -> torch.Tensor:
    """[2^axes, C, N], the corner furthest from the origin last."""
    sides = padded.shape[1:]
    ends = [  # a point's cell has two ends along each axis
        [(x + margin + end).clamp(0, side - 1).to(torch.int32) for end in (0, 1)]
        for x, side in zip(lower, sides, strict=True)
    ]
    indices = ends[0]
    for pair, side in zip(ends[1:], sides[1:], strict=True):
        rows = [index * side for index in indices]
        indices = [row + end for row in rows for end in pair]
    return torch.stack([padded.flatten(1).index_select(1, index) for index in indices])


def _vote(labels: torch.Tensor, coordinates: list[torch.Tensor]) -> torch.Tensor:
    """The winning label of each point, [N], from those of its corners, [2^axes, N]."""
    ends = [(1 - (x - x.floor()), x - x.floor()) for x in coordinates]  # the weights along each axis
    weights = HUNDRED_PERCENT * torch.stack([torch.stack(corner).prod(0) for corner in product(*ends)])
    shares = torch.stack([(weights * (labels == label)).sum(0) for label in labels]).to(torch.float16)
    largest = shares.amax(dim=0)
    lowest = labels.masked_fill(shares < largest, torch.iinfo(labels.dtype).max).amin(dim=0)
    nearest = torch.zeros_like(labels[0], dtype=torch.int64)
    for x in coordinates:
        nearest = 2 * nearest + (x.round() - x.floor()).to(torch.int64)
    nearest = nearest.unsqueeze(0)
    wins = shares.gather(0, nearest).squeeze(0) == largest
    return torch.where(wins, labels.gather(0, nearest).squeeze(0), lowest)

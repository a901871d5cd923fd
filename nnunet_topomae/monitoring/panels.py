"""Panels of the same validation crops through a pre-training: a picture each, and small volumes for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nnunet_topomae.augmentation.random_streams import numpy_generator_kept
from nnunet_topomae.files import written_whole
from nnunet_topomae.losses.term import BRANCHES
from nnunet_topomae.monitoring.reconstructions import PretrainingEvaluation, ReconstructedCrop
from nnunet_topomae.topology.loss import average_pool
from nnunet_topomae.visualization.slices import grey_window

FOLDER = "progress"
MAX_CASES = 2
MAX_SIDE = 64  # voxels; larger crops are average-pooled, so that a crop takes at most 64³ bytes a volume


class Panel(NamedTuple):
    """One crop after some epochs; volumes are the first channel in 8 bits, average-pooled to at most MAX_SIDE.

    Attributes:
        case: identifier.
        epoch: number of epochs that had passed.
        image: [D, H, W] uint8, 0 to 255 over `window`.
        mask: [D, H, W] bool, True where the networks saw nothing.
        completed: [D, H, W] uint8 by network: as `image` where that was visible, the reconstruction elsewhere.
        masked_mse: mean squared error on masked voxels of the whole crop by network, in squared z-scored intensities.
        points: [9, 3], where the crop lies in its volume (`pretext/position.py`).
        voxel_size: [3], mm of this panel's voxels.
        window: [2], intensities shown as 0 and 255.
    """

    case: str
    epoch: int
    image: np.ndarray
    mask: np.ndarray
    completed: dict[str, np.ndarray]
    masked_mse: dict[str, float]
    points: np.ndarray
    voxel_size: np.ndarray
    window: np.ndarray


BY_NETWORK = ("completed", "masked_mse")


def save_panels(folder: Path, epoch: int, evaluation: PretrainingEvaluation, cases: Sequence[str]) -> dict[str, Path]:
    """Reconstructs one crop of each case, the same one whenever it is called.

    Writes `folder/epoch_NNNN_CASE.png` of each, and all as `folder/epoch_NNNN.npz` for `read_panels`. NumPy's global
    generator is left as it was.

    Returns:
        The pictures by case.
    """
    folder.mkdir(exist_ok=True)
    pictures, panels = {}, []
    with numpy_generator_kept():
        for case in cases:
            crop = evaluation.reconstruct(case, evaluation.seed(case))
            pictures[case] = folder / f"{_stem(epoch)}_{case}.png"
            evaluation.draw(pictures[case], f"{case}, epoch {epoch}", crop)
            panels.append(_panel(case, epoch, crop, np.asarray(evaluation.spacing, dtype=np.float32)))
    write_panels(folder / f"{_stem(epoch)}.npz", panels)
    return pictures


def read_panels(folder: Path) -> list[Panel]:
    """All in the files epoch_*.npz of a folder, in the order of epochs; empty if there is none.

    Raises:
        ValueError: a file is damaged or no panel.
    """
    return sorted((panel for file in folder.glob("epoch_*.npz") for panel in _read(file)), key=lambda p: p.epoch)


def labels_in_panel(
    panel: Panel, labels: np.ndarray, transpose_forward: Sequence[int], box: Sequence[Sequence[int]]
) -> np.ndarray:
    """The labels at the panel's voxels, [D, H, W], with 0 outside of the volume.

    Args:
        labels: as nnU-Net reads them from the file of the panel's case.
        transpose_forward: of the plans.
        box: what nnU-Net has cropped the volume to: (lower, upper) of each axis after that.
    """
    volume = np.pad(labels.transpose(transpose_forward)[tuple(slice(*ends) for ends in box)], 1)
    lower, upper = panel.points[1], panel.points[-1]  # the crop's first corner and its last, as parts of the volume
    voxels = []
    for start, end, size, padded in zip(lower, upper, panel.image.shape, volume.shape, strict=True):
        parts = start + (np.arange(size) + 0.5) / size * (end - start)
        voxels.append(np.floor(parts * (padded - 2) + 1).astype(int).clip(0, padded - 1))
    return volume[np.ix_(*voxels)]


def _panel(case: str, epoch: int, crop: ReconstructedCrop, spacing: np.ndarray) -> Panel:
    image = crop.image[:, :1]
    pooled = _pooled(image)
    window = np.array(list(grey_window(pooled).values()), dtype=np.float32)
    error = {name: (volume - crop.image)[:, 0][crop.voxel_mask[:, 0]] for name, volume in crop.completed.items()}
    return Panel(
        case,
        epoch,
        _as_bytes(pooled, window),
        _pooled(crop.voxel_mask.float()) > 0.5,
        {name: _as_bytes(_pooled(volume[:, :1]), window) for name, volume in crop.completed.items()},
        {name: difference.square().mean().item() for name, difference in error.items()},
        crop.points[0].cpu().numpy(),
        spacing * np.divide(image.shape[2:], pooled.shape),
        window,
    )


def _pooled(volume: torch.Tensor) -> np.ndarray:
    return average_pool(volume, MAX_SIDE)[0, 0].cpu().numpy()


def _as_bytes(volume: np.ndarray, window: np.ndarray) -> np.ndarray:
    low, high = window
    return np.clip(np.rint((volume - low) / max(high - low, 1e-6) * 255), 0, 255).astype(np.uint8)


def _stem(epoch: int) -> str:
    return f"epoch_{epoch:04d}"


def write_panels(file: Path, panels: Sequence[Panel]) -> None:
    """All in one file, for `read_panels`."""
    arrays: dict[str, Any] = {}
    for index, panel in enumerate(panels):
        for name, value in panel._asdict().items():
            if name in BY_NETWORK:
                arrays |= {f"{index}/{name}/{branch}": of_branch for branch, of_branch in value.items()}
            else:
                arrays[f"{index}/{name}"] = np.array(value)
    with written_whole(file) as partial:
        np.savez_compressed(partial, count=len(panels), **arrays)


def _read(file: Path) -> list[Panel]:
    try:
        with np.load(file) as arrays:
            return [_panel_of(arrays, index) for index in range(int(arrays["count"]))]
    except Exception as error:  # a damaged zip fails in many ways
        raise ValueError(f"{file} cannot be read as panels of a pre-training: {error!r}") from error


def _panel_of(arrays: Mapping[str, np.ndarray], index: int) -> Panel:
    values: dict[str, Any] = {name: arrays[f"{index}/{name}"] for name in Panel._fields if name not in BY_NETWORK}
    for name in BY_NETWORK:
        values[name] = {branch: arrays[f"{index}/{name}/{branch}"] for branch in BRANCHES}
    errors = {branch: float(error) for branch, error in values["masked_mse"].items()}
    return Panel(**values | {"case": str(values["case"]), "epoch": int(values["epoch"]), "masked_mse": errors})

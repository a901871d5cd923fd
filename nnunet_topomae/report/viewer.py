"""What `page.js` needs to draw the slices of volumes: see its `draw`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from nnunet_topomae.report.mosaic import mosaic, mosaic_columns
from nnunet_topomae.visualization.orientation import View


class Viewer:
    """Canvases beside each other that show the same slice of volumes of one shape.

    Args:
        view: the volumes are turned to, before they come here.
        shape: [D, H, W] of every volume.
        voxel_size: mm of D, H, W.
        start: slice of each axis that is shown first.
        title: for who does not see the canvases.
        epochs: of the steps of the epoch slider; empty for none.
        colours: of each label, as Matplotlib names them.
        names: of the labels.
        ignore: label that counts as no error; -1 for none.

    Raises:
        ValueError: a voxel has no size.
    """

    def __init__(
        self,
        view: View,
        shape: tuple[int, ...],
        voxel_size: Sequence[float],
        start: Sequence[int],
        title: str,
        epochs: Sequence[int] = (),
        colours: Mapping[int, str] | None = None,
        names: Mapping[int, str] | None = None,
        ignore: int = -1,
    ) -> None:
        if not all(np.isfinite(size) and size > 0 for size in voxel_size):
            raise ValueError(f"voxels of {' × '.join(map(str, voxel_size))} mm")
        self.view, self.shape, self.title, self.epochs = view, shape, title, epochs
        self.colours, self.names = colours or {}, names or {}
        self.panels: list[dict[str, Any]] = []
        self.mosaics: dict[str, str] = {}
        self.data = {
            "shape": list(map(int, shape)),
            "voxelSize": list(map(float, voxel_size)),
            "start": list(map(int, start)),
            "columns": mosaic_columns(shape),
            "planes": [plane._asdict() for plane in view.planes],
            "epochs": list(epochs),
            "colours": {label: [round(255 * part) for part in to_rgb(c)] for label, c in self.colours.items()},
            "ignore": ignore,
            "panels": self.panels,
            "mosaics": self.mosaics,
        }

    def add_volume(self, name: str, volume: np.ndarray) -> str:
        """A [D, H, W] uint8 or bool volume; returns its name."""
        if volume.shape != self.shape:
            raise ValueError(f"{name} has shape {volume.shape}, the others {self.shape}")
        self.mosaics[name] = mosaic(volume.astype(np.uint8) * (255 if volume.dtype == bool else 1))
        return name

    def add_panel(self, title: str, base: str, **layers: Any) -> None:
        """A canvas over the volume `base`. Layers, by name of volume: `mask`, `fill` (a list, one an epoch, shown where
        the mask is), `labels`, and `reference`, with which `labels` are compared. `note` is small text below.
        """
        self.panels.append({"title": title, "base": base, **layers})

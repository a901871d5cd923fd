"""What `page.js` needs to draw the slices of volumes: see its `draw`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnunet_topomae.report.strips import strip, strip_columns
from nnunet_topomae.visualization.slices import plane_name


@dataclass
class Viewer:
    """Canvases beside each other that show the same slice of volumes of one shape.

    Attributes:
        shape: [D, H, W] of every volume.
        voxel_size: mm of D, H, W.
        start: slice of each axis that is shown first.
        title: for who does not see the canvases.
        epochs: of the steps of the epoch slider; empty for none.
        colours: '#rrggbb' of each label.
        names: of the labels.
        ignore: label that counts as no error; -1 for none.
        panels: one a canvas.
        strips: the volumes by name, as `strips.strip` writes them.
    """

    shape: tuple[int, int, int]
    voxel_size: Sequence[float]
    start: Sequence[int]
    title: str
    epochs: Sequence[int] = ()
    colours: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    ignore: int = -1
    panels: list[dict[str, Any]] = field(default_factory=list)
    strips: dict[str, str] = field(default_factory=dict)

    def add_volume(self, name: str, volume: np.ndarray) -> str:
        """A [D, H, W] uint8 or bool volume; returns its name."""
        if volume.shape != self.shape:
            raise ValueError(f"{name} has shape {volume.shape}, the others {self.shape}")
        self.strips[name] = strip(volume.astype(np.uint8) * (255 if volume.dtype == bool else 1))
        return name

    def add_panel(self, title: str, base: str, **layers: Any) -> None:
        """A canvas over the volume `base`. Layers, by name of volume: `mask`, `fill` (a list, one an epoch, shown where
        the mask is), `labels`, and `reference`, with which `labels` are compared. `note` is small text below.
        """
        self.panels.append({"title": title, "base": base, **layers})

    @property
    def plane_names(self) -> list[str]:
        return [plane_name(axis) for axis in range(3)]

    @property
    def data(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "voxelSize": [float(size) for size in self.voxel_size],
            "start": [int(index) for index in self.start],
            "columns": strip_columns(self.shape),
            "epochs": list(self.epochs),
            "colours": {str(label): _rgb(colour) for label, colour in self.colours.items()},
            "ignore": self.ignore,
            "panels": self.panels,
            "strips": self.strips,
        }


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]

"""Validation crops over the epochs of pre-trainings: what was hidden, and what the networks made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nnunet_topomae.monitoring.panels import Panel
from nnunet_topomae.report.mosaic import as_bytes
from nnunet_topomae.report.runs import NETWORKS, Run
from nnunet_topomae.report.segmentations import view_of
from nnunet_topomae.report.viewer import Viewer

WINDOW = (0, 255)  # a panel's volumes are bytes already
MAX_EPOCHS = 6  # shown of a run


class ReconstructedCase(NamedTuple):
    """The same crop under the same mask in one or more runs.

    Attributes:
        name: identifier of the case.
        panels: of each run by its letter, in the order of epochs.
        runs: the same runs.
        epochs: of the slider, all that any of the runs has.
    """

    name: str
    panels: dict[str, list[Panel]]
    runs: list[Run]
    epochs: list[int]

    def at(self, letter: str, epoch: int) -> Panel:
        """What a run had last after so many epochs; before its first panel that one."""
        panels = self.panels[letter]
        return next((panel for panel in reversed(panels) if panel.epoch <= epoch), panels[0])


def reconstructed_cases(runs: Sequence[Run]) -> list[ReconstructedCase]:
    """Crops with their panels, at most MAX_EPOCHS a run. Runs share a crop where image and mask are equal."""
    groups: dict[tuple[object, ...], dict[str, list[Panel]]] = {}
    for run in runs:
        for panel in run.panels:
            crop = (panel.case, panel.image.shape, panel.image.tobytes(), panel.mask.tobytes())
            groups.setdefault(crop, {}).setdefault(run.letter, []).append(panel)
    cases = []
    for (name, *_), panels in groups.items():
        chosen = {letter: _spread(of_run) for letter, of_run in panels.items()}
        epochs = sorted({panel.epoch for of_run in chosen.values() for panel in of_run})
        cases.append(ReconstructedCase(str(name), chosen, [run for run in runs if run.letter in chosen], epochs))
    return cases


def _spread(panels: Sequence[Panel]) -> list[Panel]:
    """First, last and some between."""
    indices = np.unique(np.linspace(0, len(panels) - 1, min(len(panels), MAX_EPOCHS)).round().astype(int))
    return [panels[index] for index in indices]


def reconstruction_viewer(case: ReconstructedCase) -> Viewer:
    """Input, masked input, and what each network of each run made of it over the epochs."""
    panel = case.panels[case.runs[0].letter][-1]
    view = view_of(case.name, case.runs[0])
    image, hidden = view.volume(as_bytes(panel.image, WINDOW)), view.volume(panel.mask)
    title = f"{case.name}: input, mask and reconstructions"
    voxel_size = view.of_axes(panel.voxel_size.tolist())
    viewer = Viewer(view, image.shape, voxel_size, [side // 2 for side in image.shape], title, case.epochs)
    base, mask = viewer.add_volume("input", image), viewer.add_volume("mask", hidden)
    viewer.add_panel("input", base)
    viewer.add_panel("masked input", base, mask=mask, note=f"{hidden.mean():.0%} hidden")
    for run in case.runs:
        for network, name in NETWORKS.items():
            for of_epoch in case.panels[run.letter]:
                completed = view.volume(as_bytes(of_epoch.completed[network], WINDOW))
                only_masked = np.where(hidden, completed, 0).astype(np.uint8)  # zeros cost nothing in a PNG
                viewer.add_volume(f"{run.letter}/{network}/{of_epoch.epoch}", only_masked)
            shown = [case.at(run.letter, epoch) for epoch in case.epochs]
            viewer.add_panel(
                f"{run.name}, {name}",
                base,
                mask=mask,
                fill=[f"{run.letter}/{network}/{of_epoch.epoch}" for of_epoch in shown],
                notes=[f"epoch {p.epoch}, masked MSE {p.masked_mse[network]:.3g}" for p in shown],
            )
    return viewer

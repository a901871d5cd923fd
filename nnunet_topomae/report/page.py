"""Puts the page together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nnunet_topomae import __version__
from nnunet_topomae.report.curves import curve_figures
from nnunet_topomae.report.diagrams import MatchedDiagrams, matched_diagrams
from nnunet_topomae.report.knobs import knobs, nnunet_settings
from nnunet_topomae.report.points import point_errors, points_figure
from nnunet_topomae.report.reconstructions import ReconstructedCase, reconstructed_cases, reconstruction_viewer
from nnunet_topomae.report.runs import NETWORKS, Run, read_runs
from nnunet_topomae.report.segmentations import SegmentedCase, case_viewer, segmented_cases
from nnunet_topomae.report.tables import duration, metric_tables, number, timing_table
from nnunet_topomae.report.viewer import Viewer
from nnunet_topomae.visualization.palette import MUTED_BLUE, PINK, VERMILION, YELLOW
from nnunet_topomae.visualization.palette import NETWORKS as NETWORK_COLOURS

HERE = Path(__file__).parent
GENERATOR = "nnunet-topomae report"  # how a page is known as one of ours, which may be written again
ERRORS = {"missed": VERMILION, "invented": YELLOW, "another class": PINK}


class Overlay(NamedTuple):
    """One of the worst cases; without a viewer `missing` says why."""

    case: SegmentedCase
    viewer: Viewer | None
    missing: str


class Points(NamedTuple):
    """The nine points of a run's crop; `errors` in mm by network after the last epoch."""

    run: Run
    figure: Markup
    errors: dict[str, float]


class Diagrams(NamedTuple):
    """Of a run's network, one entry a dimension."""

    run: Run
    network: str
    epoch: int
    compared: list[MatchedDiagrams]


class Reconstruction(NamedTuple):
    """All about one crop."""

    case: ReconstructedCase
    viewer: Viewer
    points: list[Points]
    diagrams: list[Diagrams]


def write_report(folders: Sequence[Path], out: Path, num_cases: int) -> Path:
    """Write one page about the trainings in results folders.

    Args:
        folders: of folds, models or datasets, as `runs.find_folds` takes them.
        out: the page; its folder must exist. An earlier report there is replaced, anything else is left.
        num_cases: how many of the worst segmented cases are shown.

    Raises:
        OSError: a folder does not exist; `out` is no report and exists, or cannot be written.
        ValueError: a folder holds no training.
    """
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} does not exist: make the folder first, or name another with -o")
    if out.exists() and not _is_report(out):
        raise FileExistsError(f"{out} exists and is no report: name another file with -o")
    page = render(read_runs(folders), num_cases)
    partial = out.with_name(f"{out.name}.partial")
    partial.write_text(page, encoding="utf-8", errors="replace")  # names of files need not be text
    os.replace(partial, out)
    return out


def render(runs: Sequence[Run], num_cases: int) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    cases = segmented_cases(runs)
    return environment.get_template("page.html.j2").render(
        generator=f"{GENERATOR} {__version__}",
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        datasets=list(dict.fromkeys(run.dataset for run in runs)),
        runs=runs,
        overview=[_overview(run, cases) for run in runs],
        num_segmented=len(cases),
        overlays=[_overlay(case) for case in cases[:num_cases]],
        error_colours=ERRORS,
        masked_colour=MUTED_BLUE,
        knobs=knobs(runs),
        settings=nnunet_settings(runs),
        curves=curve_figures(runs),
        reconstructions=[_reconstruction(case) for case in reconstructed_cases(runs)],
        networks=NETWORKS,
        network_colours=NETWORK_COLOURS,
        tables=metric_tables(runs),
        timing=timing_table(runs),
    )


def _is_report(file: Path) -> bool:
    return file.is_file() and GENERATOR in file.read_bytes()[:1000].decode("utf-8", errors="replace")


def _overview(run: Run, cases: Sequence[SegmentedCase]) -> dict[str, Any]:
    """What is to be seen of a run at a glance."""
    dice = {case.name: case.mean_dice[run.letter] for case in cases if run in case.runs}
    known = {name: value for name, value in dice.items() if not isnan(value)}
    worst = min(known, key=lambda name: known[name]) if known else None
    planned = run.setting("num_epochs")
    return {
        "run": run,
        "epochs": f"{run.epochs} of {planned}" if isinstance(planned, int) else str(run.epochs),
        "result": _result(run, known),
        "worst": f"{worst}: {known[worst]:.3f}" if worst is not None else "",
        "time": duration(float(np.sum(run.epoch_seconds))) if run.epochs else "",
    }


def _result(run: Run, dice: dict[str, float]) -> str:
    if dice:
        return f"Dice {np.mean(list(dice.values())):.3f}, mean of {len(dice)} cases"
    mean = run.summary.get("mean", {})
    errors = [
        f"{number(mean[network]['masked_mse']).text} {name}"
        for network, name in NETWORKS.items()
        if "masked_mse" in mean.get(network, {})
    ]
    return f"masked MSE {', '.join(errors)}" if errors else "no validation"


def _overlay(case: SegmentedCase) -> Overlay:
    try:
        return Overlay(case, case_viewer(case), "")
    except (OSError, ValueError, RuntimeError) as error:
        return Overlay(case, None, str(error))


def _reconstruction(case: ReconstructedCase) -> Reconstruction:
    points, diagrams = [], []
    for run in case.runs:
        panels = case.panels[run.letter]
        shown = [case.at(run.letter, epoch)._replace(epoch=epoch) for epoch in case.epochs]
        points.append(
            Points(
                run,
                points_figure(shown, f"{case.name}: nine points, true and predicted by {run.name}"),
                point_errors(panels[-1]),
            )
        )
        for network, name in NETWORKS.items():
            compared = matched_diagrams(panels[-1], network, f"{case.name}, {run.name}, {name}")
            diagrams.append(Diagrams(run, name, panels[-1].epoch, compared))
    return Reconstruction(case, reconstruction_viewer(case), points, diagrams)

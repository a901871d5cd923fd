"""Puts the page together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nnunet_topomae import __version__
from nnunet_topomae.files import write_text
from nnunet_topomae.report.curves import curve_figures
from nnunet_topomae.report.diagrams import matched_diagrams
from nnunet_topomae.report.health import state
from nnunet_topomae.report.knobs import knobs, nnunet_settings
from nnunet_topomae.report.lenient import counted, text
from nnunet_topomae.report.models import Model, comparisons, models_of, result
from nnunet_topomae.report.points import points_figure
from nnunet_topomae.report.reconstructions import ReconstructedCase, reconstructed_cases, reconstruction_viewer
from nnunet_topomae.report.runs import NETWORKS, Run, read_runs
from nnunet_topomae.report.segmentations import SegmentedCase, case_viewer, segmented_cases
from nnunet_topomae.report.tables import duration, metric_tables, shown
from nnunet_topomae.report.viewer import Viewer
from nnunet_topomae.visualization.palette import MUTED_BLUE, PINK, VERMILION, YELLOW
from nnunet_topomae.visualization.palette import NETWORKS as NETWORK_COLOURS

HERE = Path(__file__).parent
GENERATOR = "nnunet-topomae report"  # how a page is known as one of ours, which may be written again
ERRORS = {"missed": VERMILION, "invented": YELLOW, "another class": PINK}
Made = TypeVar("Made")


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
    return write_text(out, render(read_runs(folders), num_cases, datetime.now()))


def _is_report(file: Path) -> bool:
    return file.is_file() and GENERATOR in file.read_bytes()[:1000].decode("utf-8", errors="replace")


def render(runs: Sequence[Run], num_cases: int, now: datetime) -> str:
    """The page as HTML. What cannot be shown of files that nobody foresaw is said at its end, and stops no other."""
    failed: list[str] = []
    tried = partial(_tried, failed)
    models, cases = models_of(runs), tried("segmented cases", segmented_cases, runs) or []
    telling, other_curves = tried("curves", curve_figures, runs) or ([], [])
    crops = tried("reconstructions", reconstructed_cases, runs) or []
    content = {
        "models": _made(tried(f"summary of {model.name}", _summary, model, models, cases, now) for model in models),
        "comparisons": tried("comparison of the trainers", comparisons, models) or [],
        "overlays": [_overlay(case) for case in cases[:num_cases]],
        "knobs": tried("knobs", knobs, models) or [],
        "settings": tried("settings of nnU-Net", nnunet_settings, models) or [],
        "reconstructions": _made(tried(f"reconstructions of {crop.name}", _reconstruction, crop) for crop in crops),
        "tables": tried("tables", metric_tables, runs, cases) or [],
    }
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "counted": counted}
    return environment.get_template("page.html.j2").render(
        generator=f"{GENERATOR} {__version__}",
        date=now.strftime("%Y-%m-%d %H:%M"),
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        datasets=list(dict.fromkeys(run.dataset for run in runs)),
        runs=runs,
        all_models=models,
        num_segmented=len(cases),
        telling=telling,
        other_curves=other_curves,
        error_colours=ERRORS,
        masked_colour=MUTED_BLUE,
        networks=NETWORKS,
        network_colours=NETWORK_COLOURS,
        failed=failed,
        **content,
    )


def _tried(failed: list[str], what: str, make: Callable[..., Made], *arguments: Any) -> Made | None:
    """What is made of files of another tool; None where that fails, with a sentence in `failed`."""
    try:
        return make(*arguments)
    except Exception as error:
        failed.append(f"No {what}: {type(error).__name__}: {text(error)}.")
        return None


def _made(parts: Iterable[Made | None]) -> list[Made]:
    return [part for part in parts if part is not None]


def _summary(model: Model, models: Sequence[Model], cases: Sequence[SegmentedCase], now: datetime) -> dict[str, Any]:
    """What is to be seen of a model at a glance, and of each of its folds when it is opened."""
    beside = [other for other in models if other.first.dataset == model.first.dataset and other.cases]
    return {
        "model": model,
        "result": result(model, beside),
        "findings": model.findings(now),
        "folds": [
            {
                "run": run,
                "state": state(run),
                "result": result(Model([run])),
                "worst": _worst(run, cases),
                "time": duration(float(run.epoch_seconds.sum())) if run.epochs else "",
            }
            for run in model.runs
        ],
    }


def _worst(run: Run, cases: Sequence[SegmentedCase]) -> str:
    dice = {case.name: case.mean_dice[run.letter] for case in cases if run in case.runs}
    known = {name: value for name, value in dice.items() if not isnan(value)}
    worst = min(known, key=lambda name: known[name], default=None)
    return "" if worst is None else f"{worst}: {known[worst]:.3f}"


def _overlay(case: SegmentedCase) -> tuple[SegmentedCase, Viewer | None, str]:
    """One of the worst cases; without a viewer the last says why."""
    try:
        return case, case_viewer(case), ""
    except Exception as error:  # each format of images fails in ways of its own
        return case, None, text(error) or type(error).__name__


def _reconstruction(case: ReconstructedCase) -> dict[str, Any]:
    """A crop; the nine points of each run, and the diagrams of each of its networks after its last epoch."""
    points, diagrams = [], []
    for run in case.runs:
        panels = case.panels[run.letter]
        points.append((run, points_figure([case.at(run.letter, epoch)._replace(epoch=epoch) for epoch in case.epochs])))
        for network, name in NETWORKS.items():
            compared = matched_diagrams(panels[-1], network, f"{case.name}, {run.name}, {name}")
            diagrams.append({"run": run, "network": name, "epoch": panels[-1].epoch, "compared": compared})
    return {"case": case, "viewer": reconstruction_viewer(case), "points": points, "diagrams": diagrams}

"""Puts the page together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nnunet_topomae import __version__
from nnunet_topomae.files import write_text
from nnunet_topomae.report.curves import curve_figures
from nnunet_topomae.report.figures import embedded
from nnunet_topomae.report.knobs import knobs, nnunet_settings, setting_tables
from nnunet_topomae.report.models import Model, comparisons, models_of, result
from nnunet_topomae.report.reconstructions import reconstructed_cases, reconstruction_pictures
from nnunet_topomae.report.runs import Run, read_runs
from nnunet_topomae.report.segmentations import SegmentedCase, case_figure, segmented_cases
from nnunet_topomae.report.tables import class_table, metric_tables, shown, training_table
from nnunet_topomae.report.words import counted, text

HERE = Path(__file__).parent
GENERATOR = "nnunet-topomae report"  # how a page is known as one of ours, which may be written again
SETTINGS = {"Knobs of nnunet-topomae": knobs, "nnU-Net's own settings": nnunet_settings}
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
    compared = tried("comparison of the trainers", comparisons, models) or []
    telling, other_curves = tried("curves", curve_figures, runs) or ([], [])
    crops = tried("reconstructions", reconstructed_cases, runs) or []
    pictured = [
        (name, tried(f"reconstructions of {name}", reconstruction_pictures, name, crop)) for name, crop in crops
    ]
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
        models=tried("summary", _summaries, models, now) or [],
        comparisons=[(one, tried("comparison by class", class_table, one)) for one in compared],
        trainings=tried("table of the trainings", training_table, runs, cases),
        num_segmented=len(cases),
        worst=[(case, *_picture(case)) for case in cases[:num_cases]],
        telling=telling,
        other_curves=other_curves,
        reconstructions=[(name, *pictures) for name, pictures in pictured if pictures],
        settings=[setting_tables(title, tried(title, read, models) or []) for title, read in SETTINGS.items()],
        tables=tried("tables", metric_tables, runs, cases) or [],
        failed=failed,
    )


def _tried(failed: list[str], what: str, make: Callable[..., Made], *arguments: Any) -> Made | None:
    """What is made of files of another tool; None where that fails, with a sentence in `failed`."""
    try:
        return make(*arguments)
    except Exception as error:
        failed.append(f"No {what}: {type(error).__name__}: {text(error)}.")
        return None


def _summaries(models: Sequence[Model], now: datetime) -> list[tuple[Model, str, list[str]]]:
    return [(model, result(model), model.findings(now)) for model in models]


def _picture(case: SegmentedCase) -> tuple[Markup | None, str]:
    """Of one of the worst cases; without it the second says why."""
    try:
        return embedded(case_figure(case), f"{case.name}: reference, predictions and errors"), ""
    except Exception as error:  # each format of images fails in ways of its own
        return None, text(error) or type(error).__name__

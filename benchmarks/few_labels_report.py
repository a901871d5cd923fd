"""Table, plot and results of `few_labels.py`, and the results that are kept in benchmarks/results.

    python benchmarks/few_labels_report.py FOLDER [--cases choose|report|all] [--largest-component]

Settings are chosen on one half of the validation cases (every second by name), results are reported on the other.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nnunet_topomae.visualization.tables import markdown_table

HALVES = {"choose": slice(0, None, 2), "report": slice(1, None, 2), "all": slice(None)}
METRICS = {"Dice": ("Dice", 3), "NSD_1mm": ("NSD 1 mm", 3), "HD95": ("HD95 (mm)", 2), "betti_error": ("Betti error", 2)}
METRICS |= {"clDice": ("clDice", 3), "betti_matching_error": ("Betti matching error", 2)}  # of `--metrics`
COLUMNS = ("arm", "labels", "setting", "seed", "case", "class", *METRICS)
LARGEST = "largest components"  # the setting of what is measured after these
BASELINES = {"scratch": "hybrid from scratch", "nnunet": "nnU-Net"}


@dataclass(frozen=True)
class Results:
    """All runs of one arm for one number of labels.

    Attributes:
        metrics: by name, [seeds, cases], mean over classes.
    """

    arm: str
    meaning: str
    labels: int
    seeds: list[int]
    metrics: dict[str, np.ndarray]

    def of_seeds(self, metric: str) -> np.ndarray:
        """Mean over cases, one a seed."""
        return _nanmean(self.metrics[metric], axis=1)

    def mean(self, metric: str) -> float:
        """Over cases and seeds."""
        return float(self.of_seeds(metric).mean())

    def only(self, seeds: Sequence[int]) -> Results:
        """Of these seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return replace(self, seeds=list(seeds), metrics={name: values[rows] for name, values in self.metrics.items()})

    def minus(self, other: Results, metric: str = "Dice") -> tuple[float, float]:
        """Paired difference (mean over seeds) per case: its mean, and the standard error over cases."""
        difference = _nanmean(self.metrics[metric], axis=0) - _nanmean(other.metrics[metric], axis=0)
        difference = difference[np.isfinite(difference)]
        if not difference.size:
            return math.nan, math.nan
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(difference.size))


def read_results(folder: Path, half: str, setting: str = "") -> dict[tuple[str, int], Results]:
    """By arm and number of labels, in the order of the runs' names."""
    runs = defaultdict(list)
    for run in read_runs(folder):
        if run["setting"] == setting:
            runs[run["arm"], run["labels"]].append(run)
    return {key: results_of(of_seeds, half) for key, of_seeds in runs.items()}


def read_runs(path: Path) -> list[dict]:
    """Of a folder of `few_labels.py`, or a file of `write_runs`: a dictionary an arm, setting, number and seed."""
    if path.is_dir():
        measured = [json.loads(file.read_text()) for file in sorted(path.glob("runs/*/labels_*/seed_*/metrics.json"))]
        largest = [
            run | {"setting": LARGEST, "cases": run["largest_component"]}
            for run in measured
            if "largest_component" in run
        ]
        return [{"setting": ""} | run for run in measured] + largest
    runs: dict[tuple, dict] = {}
    with gzip.open(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            arm, labels, setting, seed = (row[name] for name in COLUMNS[:4])
            run = {"arm": arm, "meaning": arm, "labels": int(labels), "setting": setting, "seed": int(seed)}
            cases = runs.setdefault((arm, labels, setting, seed), run | {"cases": {}})["cases"]
            values = {metric: float(row.get(metric) or math.nan) for metric in METRICS}
            cases.setdefault(row["case"], {})[row["class"]] = values
    return list(runs.values())


def write_runs(runs: Sequence[dict], path: Path) -> None:
    """A row a case and class, to five digits, as .csv.gz; empty where a measure is not defined."""
    with gzip.open(path, "wt", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(COLUMNS)
        for run in runs:
            key = run["arm"], run["labels"], run["setting"], run["seed"]
            for case, classes in sorted(run["cases"].items()):
                for name, values in classes.items():
                    measures = (values.get(metric, math.nan) for metric in METRICS)
                    table.writerow([*key, case, name, *("" if math.isnan(m) else f"{m:.5g}" for m in measures)])


def results_of(runs: Sequence[dict], half: str) -> Results:
    """Of one arm and number of labels: what `few_labels.py` has written, a dictionary a seed."""
    cases = sorted(runs[0]["cases"])[HALVES[half]]
    metrics = {
        metric: np.array([[_mean_over_classes(run["cases"][case], metric) for case in cases] for run in runs])
        for metric in METRICS
    }
    return Results(runs[0]["arm"], runs[0]["meaning"], runs[0]["labels"], [run["seed"] for run in runs], metrics)


def _mean_over_classes(case: dict[str, dict[str, float]], metric: str) -> float:
    return float(_nanmean([values.get(metric, math.nan) for values in case.values()]))


def _nanmean(values: Sequence[float] | np.ndarray, axis: int | None = None) -> np.ndarray:
    """NaN, and no warning, where nothing is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)


def table(results: dict[tuple[str, int], Results]) -> str:
    """A row an arm and number of labels; ± is the standard deviation over seeds, of differences the standard error."""
    head = ["labels", "arm", "seeds", *(title for title, _ in METRICS.values())]
    head += [f"Dice − {name}" for name in BASELINES.values()]
    rows = []
    for result in sorted(results.values(), key=lambda result: (result.labels, -result.of_seeds("Dice").mean())):
        row = [result.labels, result.meaning, len(result.seeds)]
        row += [spread(result.of_seeds(metric), digits) for metric, (_, digits) in METRICS.items()]
        for baseline in BASELINES:
            other = results.get((baseline, result.labels))
            comparable = other is not None and other is not result
            row.append("{:+.3f} ± {:.3f}".format(*result.minus(other)) if comparable else "")
        rows.append(row)
    return markdown_table(head, rows)


def spread(values: np.ndarray, digits: int) -> str:
    if np.isnan(values).any():
        return "–"
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def plot(results: dict[tuple[str, int], Results], path: Path) -> None:
    """Dice against the number of labels, a line an arm; of one number of labels alone, a row an arm. A mark a seed."""
    several = len({labels for _, labels in results}) > 1
    figure = Figure(figsize=(8, 5 if several else 1 + 0.35 * len(results)), layout="constrained")
    if several:
        draw_lines(figure, results)
    else:
        draw_rows(figure, sorted(results.values(), key=lambda result: result.of_seeds("Dice").mean(), reverse=True))
    figure.savefig(path, dpi=120)


def draw_lines(figure: Figure, results: dict[tuple[str, int], Results]) -> None:
    """Mean Dice against the number of labels, a line an arm, each seed as a bar."""
    axes = figure.subplots()
    counts = sorted({labels for _, labels in results})
    arms = list(dict.fromkeys(arm for arm, _ in results))
    for index, arm in enumerate(arms):
        mine = [results[arm, labels] for labels in counts if (arm, labels) in results]
        shift = 1.03 ** (index - len(arms) / 2)  # side by side on the logarithmic axis
        positions = [result.labels * shift for result in mine]
        (line,) = axes.plot(positions, [r.of_seeds("Dice").mean() for r in mine], "o-", label=mine[0].meaning)
        for position, result in zip(positions, mine, strict=True):
            values = result.of_seeds("Dice")
            axes.plot([position] * len(values), values, "_", color=line.get_color(), markersize=9)
    axes.set(xscale="log", xlabel="labelled cases", ylabel="mean foreground Dice")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)


def draw_rows(figure: Figure, results: Sequence[Results]) -> None:
    """From the top: the mean Dice of each as a dot, each seed as a bar."""
    axes = figure.subplots()
    for row, result in enumerate(results):
        values = result.of_seeds("Dice")
        axes.plot(values.mean(), row, "o", color="C0")
        axes.plot(values, [row] * len(values), "|", color="C0", markersize=9)
    axes.set(xlabel=f"mean foreground Dice, {results[0].labels} labelled cases", ylim=(len(results) - 0.4, -0.6))
    axes.set_yticks(range(len(results)), [result.meaning for result in results])
    axes.grid(axis="x", alpha=0.3)


def write_report(folder: Path, half: str, setting: str = "") -> list[Path]:
    """`table.md`, `plot.png` and `results.csv.gz` (all cases and settings) in the folder."""
    results = read_results(folder, half, setting)
    (folder / "table.md").write_text(table(results) + "\n")
    plot(results, folder / "plot.png")
    write_runs(read_runs(folder), folder / "results.csv.gz")
    print(table(results))
    return [folder / name for name in ("table.md", "plot.png", "results.csv.gz")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", choices=HALVES, default="report", help="default: %(default)s")
    parser.add_argument("--largest-component", action="store_true", help="after largest components of every class")
    options = parser.parse_args()
    write_report(options.folder, options.cases, LARGEST if options.largest_component else "")


if __name__ == "__main__":
    main()

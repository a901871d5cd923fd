"""Paired differences between runs of `few_labels.py`, of one folder or several, or of the results that are kept here.

    python benchmarks/few_labels_compare.py --list FILE...
    python benchmarks/few_labels_compare.py --of FILE ARM LABELS [SETTING] --against FILE ARM LABELS [SETTING] ...
    ... --metric HD95                # differences of that instead of Dice

FILE is a folder of `few_labels.py` or a file of benchmarks/results; SETTING tells runs of one arm apart where the file
has several. Seeds of fine-tuning are paired: those that both have count. After a mean ± is the spread over seeds;
after a difference the standard error over cases of its mean over seeds, then the one over seeds, then seed by seed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from few_labels_report import METRICS, Results, read_runs, results_of, spread

from nnunet_topomae.visualization.tables import markdown_table


class SelectionError(ValueError):
    """No such runs."""


def runs_in(file: Path) -> list[dict]:
    """Of a folder of `few_labels.py`, or of a file of results."""
    if not file.exists():
        raise SelectionError(f"{file} does not exist")
    return read_runs(file)


def select(file: Path, arm: str, labels: int, setting: str = "") -> list[dict]:
    """Runs of one arm, number of labels and setting, a dictionary a seed."""
    wanted = (arm, labels, setting)
    chosen = [run for run in runs_in(file) if (run["arm"], run["labels"], run.get("setting", "")) == wanted]
    if not chosen:
        named = f"{arm!r} with {labels} labels" + (f", {setting!r}" if setting else "")
        raise SelectionError(f"{file} has no runs of {named}; --list shows what it has")
    return chosen


def contents(files: list[Path]) -> str:
    """What can be compared."""
    seeds = defaultdict(list)
    for file in files:
        for run in runs_in(file):
            seeds[file.name, run["arm"], run["labels"], run.get("setting", "")].append(run["seed"])
    rows = [[*key, " ".join(map(str, sorted(mine)))] for key, mine in sorted(seeds.items())]
    return markdown_table(["file", "arm", "labels", "setting", "seeds"], rows)


def comparison(of: list[dict], others: dict[str, list[dict]], metric: str = "Dice") -> str:
    """A row a half of the cases: means of `of`, and its difference of one metric to each of the others."""
    titles, rows = {name: title for name, (title, _) in METRICS.items()}, []
    for half in ("choose", "report"):
        result = results_of(of, half)
        row = [half, len(of), *(spread(result.of_seeds(name), digits) for name, (_, digits) in METRICS.items())]
        rows.append(row + [difference(result, results_of(other, half), metric) for other in others.values()])
    differences = [f"{titles[metric]} − {name}" for name in others]
    return markdown_table(["cases", "seeds", *titles.values(), *differences], rows)


def ablated(runs: list[dict]) -> dict[str, list[dict]]:
    """The same trained networks under each ablation (`networks/ablation.py`) that `few_labels.py` has measured."""
    return {part: [run | {"cases": run["without"][part]} for run in runs] for part in runs[0].get("without", {})}


def difference(result: Results, other: Results, metric: str = "Dice") -> str:
    """Of the metric, over the seeds that both have."""
    seeds = sorted(set(result.seeds) & set(other.seeds))
    if not seeds:
        return "no seed in common"
    mine, theirs = result.only(seeds), other.only(seeds)
    by_seed = mine.of_seeds(metric) - theirs.of_seeds(metric)
    if np.isnan(by_seed).all():
        return "not kept"
    mean, over_cases = mine.minus(theirs, metric)
    over_seeds = f" ± {by_seed.std(ddof=1) / len(seeds) ** 0.5:.3f}" if len(seeds) > 1 else ""
    return f"{mean:+.3f} ± {over_cases:.3f}{over_seeds} ({', '.join(f'{value:+.3f}' for value in by_seed)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--of", nargs="+", metavar="SELECTION")
    parser.add_argument("--against", nargs="+", action="append", default=[], metavar="SELECTION")
    parser.add_argument("--metric", choices=METRICS, default="Dice", help="whose differences (default: %(default)s)")
    options = parser.parse_args()
    if not (options.list or options.of) or (options.against and not options.of):
        parser.error("--list or --of is needed, and --of beside --against")
    try:
        if options.list:
            print(contents(options.list))
        if options.of:
            of = _select(options.of)
            others = {f"with {part}": runs for part, runs in ablated(of).items()}
            others |= {", ".join(words[1:2] + words[3:]): _select(words) for words in options.against}
            print(comparison(of, others, options.metric))
    except SelectionError as error:
        parser.error(str(error))


def _select(words: list[str]) -> list[dict]:
    if len(words) not in (3, 4) or not words[2].isdigit():
        raise SelectionError(f"{' '.join(words)!r} is not FILE ARM LABELS [SETTING]")
    file, arm, labels, *setting = words
    return select(Path(file), arm, int(labels), *setting)


if __name__ == "__main__":
    main()

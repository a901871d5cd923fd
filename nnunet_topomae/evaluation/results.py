"""What an evaluation leaves behind beside summary.json: a CSV, and tables for the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_topomae.evaluation.comparison import MIN_CASES, PENALISED, SIGNIFICANT, PairedDifference
from nnunet_topomae.evaluation.folder import COUNTS, LARGEST_OF, Summary, case_status
from nnunet_topomae.files import write_text
from nnunet_topomae.visualization.tables import markdown_table

DIGITS = {"Dice": 4, "NSD_1mm": 4, "NSD_2mm": 4, "volume_error": 1, "clDice": 4}
COUNT_MEANINGS = {
    "both_empty": "class in neither, not in the means",
    "missed": "prediction empty",
    "invented": "reference empty",
    "hidden": "surfaces hidden by ignored voxels, in no mean of theirs",
}


def write_csv(file: Path, summaries: Mapping[str, Summary]) -> None:
    """A line a folder, case and class; empty cells for what is not defined."""
    rows = [
        {
            "predictions": folder,
            "case": Path(case["prediction_file"]).name,
            "label": label,
            "name": summary["label_names"][label],
            "status": case_status(metrics),
            **{name: "" if math.isnan(value) else value for name, value in metrics.items()},
        }
        for folder, summary in summaries.items()
        for case in summary["metric_per_case"]
        for label, metrics in case["metrics"].items()
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def heading(name: str, summary: Summary) -> str:
    """What the table below it is of, and what is odd about it."""
    meanings, num_cases = summary["definitions"], len(summary["metric_per_case"])
    units = f"distances in {meanings['HD95']['unit']}, volumes in {meanings['volume_error']['unit']}"
    lines = [f"{name}, mean over {num_cases} cases, {units}"]
    if bad := summary.get("partial"):
        lines[0] = f"{name}, PARTIAL: mean over {num_cases} of {num_cases + len(bad)} cases, {units}"
        lines.append(f"Not measured: {', '.join(bad)}")
    if strangers := summary.get("values_not_measured"):
        found = ", ".join(f"{value} in {count} cases" for value, count in strangers.items())
        lines.append(f"Found, but measured as no class: {found}")
    if kept_of := summary.get(LARGEST_OF):
        lines.append(f"After nnU-Net's post-processing: only the largest component left of {', then '.join(kept_of)}")
    return "\n".join(lines)


def summary_table(summary: Summary) -> str:
    """A row a class and one for their mean."""
    measures = summary["definitions"]
    head = ["class", *measures, *_occurring(summary)]
    means = {summary["label_names"][key]: mean for key, mean in summary["mean"].items()}
    means |= {"mean": summary["foreground_mean"]} if len(means) > 1 else {}
    rows = [
        [name, *(number(mean[m], DIGITS.get(m, 2)) for m in measures), *(mean[c] for c in _occurring(summary))]
        for name, mean in means.items()
    ]
    return markdown_table(head, rows)


def _occurring(summary: Summary) -> list[str]:
    """Counts that are not 0 everywhere; `hidden` needs a label to ignore."""
    return [count for count in COUNTS if count != "hidden" or summary["foreground_mean"].get(count)]


def definitions_text(summary: Summary) -> str:
    """What the numbers of a table mean, a line each."""
    lines = [
        f"  {name}: {meaning['definition']}{', in ' + meaning['unit'] if meaning['unit'] else ''}"
        for name, meaning in summary["definitions"].items()
    ]
    lines.append("  one mask empty: Dice and NSD 0, distances the volume's diagonal; both empty: not in the mean")
    lines.append("  cases: " + "; ".join(f"{count}: {COUNT_MEANINGS[count]}" for count in _occurring(summary)))
    return "\n".join(lines)


def comparison_table(compared: Sequence[PairedDifference], measures: Sequence[str]) -> str:
    """A row a folder, measure and class that one of both has."""
    head = ["measure", "class", "difference", "mean", "95 % interval", "p (Wilcoxon)", "p (Holm)", "cases", "left out"]
    rows = []
    for row in compared:
        if row.measure in measures and (row.cases or row.left_out):
            digits = DIGITS.get(row.measure, 2)
            interval = "–"
            if not math.isnan(row.low):
                interval = f"{number(row.low, digits, '+')} to {number(row.high, digits, '+')}"
            least = f" (least possible {row.p_least:.4g})" if row.p_least > SIGNIFICANT else ""
            rows.append(
                [
                    *(row.measure, row.name, f"{row.other} − {row.baseline}", number(row.mean, digits, "+"), interval),
                    *(f"{number(row.p, 4)}{least}", number(row.p_holm, 4), len(row.cases), len(row.left_out)),
                ]
            )
    return markdown_table(head, rows)


def comparison_notes(compared: Sequence[PairedDifference]) -> str:
    """What the columns of the table mean where one could err, a line each."""
    lines = ["  left out: cases with a class that one of both alone has, so that the other has no value"]
    if any(row.label == PENALISED for row in compared):
        lines.append("  mean with inventions: these count, best value for who rightly left the class out")
    if any(len(row.cases) < MIN_CASES for row in compared):
        lines.append(f"  no interval for fewer than {MIN_CASES} cases: the bootstrap's would be too narrow")
    return "\n".join(lines)


def number(value: float, digits: int, sign: str = "") -> str:
    """With so many decimals; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:{sign}.{digits}f}"

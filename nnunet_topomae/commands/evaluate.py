"""Measure predictions in mm, and compare folders of them.

What it writes has the layout of nnUNetv2_evaluate_folder, whose Dice it has to the last digit. Several folders of
predictions are compared with the first of them, class by class: Wilcoxon's signed-rank test with Holm's correction,
bootstrap intervals, a picture of the paired differences. docs/evaluation.md has all definitions.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_topomae.evaluation.classes import Classes
    from nnunet_topomae.evaluation.comparison import PairedDifference
    from nnunet_topomae.evaluation.folder import Summary

EXAMPLE = "nnunet-topomae evaluate labelsTs predictions -djfile dataset.json -o summary.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("references", metavar="GT", type=Path, help="folder with the reference segmentations")
    parser.add_argument(
        "predictions", metavar="PRED", type=Path, nargs="+", help="folder with predicted segmentations, or several"
    )
    parser.add_argument(
        "-djfile", metavar="FILE", type=Path, help="dataset.json (default: that in PRED, or beside the folder GT)"
    )
    parser.add_argument("-pfile", metavar="FILE", type=Path, help="plans, if they have a label manager of their own")
    parser.add_argument(
        "-o",
        metavar="FILE",
        type=Path,
        help="JSON to write (default: summary.json in PRED; needed with several: the picture gets its name, with .png)",
    )
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write a line a case and class, too")
    parser.add_argument(
        "--labels",
        metavar="LABEL",
        nargs="+",
        help="measure these alone: names of dataset.json, numbers, or numbers with commas for a region, as in 1,2",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=("clDice", "betti_matching_error"),
        default=[],
        help="measure these, too: overlap of centrelines; components, tunnels and cavities that are not the same ones",
    )
    parser.add_argument(
        "--largest-component",
        metavar="LABEL",
        nargs="*",
        help="measure a second time, as after nnU-Net's post-processing, which leaves the largest component alone of "
        "each LABEL, named as for --labels (default: of each class)",
    )
    parser.add_argument("--ignore-label", metavar="N", type=int, help="if there is no dataset.json that says so")
    parser.add_argument("--chill", action="store_true", help="leave out references that have no prediction")
    parser.add_argument("-np", metavar="N", type=int, default=4, help="processes (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.evaluation.comparison import compare, folder_names
    from nnunet_topomae.evaluation.folder import LARGEST, evaluate_folders
    from nnunet_topomae.evaluation.pairs import pair_folders

    outputs = _outputs(options)
    description, classes = _classes(options)
    largest = [] if options.largest_component is None else classes.foreground(options.largest_component)
    folders = pair_folders(options.references, options.predictions, description, options.chill)
    remarks = [f"Cannot be measured: {fault}" for folder in folders for fault in folder.bad.values()]
    remarks += [f"Note: {note}" for folder in folders for note in folder.notes]
    print(*dict.fromkeys(remarks), sep="\n", end="\n" if remarks else "")
    names = folder_names(options.predictions)
    by_name = dict(zip(names, folders, strict=True))
    summaries = evaluate_folders(by_name, classes, options.np, options.metrics, largest)
    after = {f"{name}, largest component": summary[LARGEST] for name, summary in summaries.items() if largest}
    compared = [row for some in (summaries, after) if len(some) > 1 for row in compare(some)]
    try:
        _write(outputs, options.csv, summaries, after, compared)
    finally:  # who has no room has the numbers, and who has closed the pipe (`| head`) the files
        _print(summaries | after, compared)
    print("\n".join(map(str, outputs)))
    if bad := next(iter(summaries.values())).get("partial"):
        raise ValueError(f"partial, {len(bad)} cases could not be measured: {'; '.join(bad.values())}")


def _outputs(options: argparse.Namespace) -> list[Path]:
    """Files to write, none of which exists unless it may be overwritten."""
    if options.np < 1:
        raise ValueError(f"-np {options.np}: at least one process")
    if len(options.predictions) > 1:
        if options.o is None:
            raise ValueError("several folders of predictions: name the file to write with -o comparison.json")
        outputs = [options.o, options.o.with_suffix(".png")]
    else:
        outputs = [options.o or options.predictions[0] / "summary.json"]
    if outputs[0].suffix != ".json":
        raise ValueError(f"-o {options.o}: its name must end in .json")
    outputs += [options.csv] if options.csv else []
    if len({file.absolute() for file in outputs}) < len(outputs):
        raise ValueError(f"{options.csv} is named for two of the files to write")
    for file in outputs:
        if not file.parent.is_dir():
            raise FileNotFoundError(f"{file.parent} is no folder")
        if not os.access(file.parent, os.W_OK):
            raise PermissionError(f"{file.parent} may not be written to by this user: name another folder")
        if file.exists() and not options.force:
            raise FileExistsError(f"{file} exists")
    return outputs


def _classes(options: argparse.Namespace) -> tuple[dict[str, Any], Classes]:
    """Content of dataset.json, or what stands for it, and the classes to measure."""
    from nnunet_topomae.evaluation.classes import Classes
    from nnunet_topomae.evaluation.pairs import file_ending

    beside = [options.predictions[0] / "dataset.json", options.references.absolute().parent / "dataset.json"]
    file = options.djfile or next((file for file in beside if file.is_file()), None)
    if file is None:
        if not options.labels:
            raise ValueError("no dataset.json in PRED or beside GT: name it with -djfile, or name --labels")
        description = {"file_ending": file_ending(options.references)}
        return description, Classes({}, options.ignore_label).choose(options.labels)
    print(f"Labels of {file}")
    description = _read_object(file)
    if not isinstance(description.get("file_ending"), str):
        raise ValueError(f"{file} has no file_ending: it is not a dataset.json of nnU-Net v2")
    classes = Classes.of_dataset(description, _read_object(options.pfile) if options.pfile else None)
    if options.ignore_label not in (None, classes.ignore_label):
        raise ValueError(f"--ignore-label {options.ignore_label}, but {file} says {classes.ignore_label}")
    return description, classes.choose(options.labels) if options.labels else classes


def _read_object(file: Path) -> dict[str, Any]:
    from nnunet_topomae.files import read_json

    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object")
    return content


def _write(
    outputs: list[Path],
    table: Path | None,
    summaries: dict[str, Summary],
    after: dict[str, Summary],
    compared: list[PairedDifference],
) -> None:
    from nnunet_topomae.evaluation.results import write_csv
    from nnunet_topomae.files import write_json
    from nnunet_topomae.visualization.paired_differences import save_paired_differences

    summary = next(iter(summaries.values()))
    bad = summary.get("partial", {})
    content = {"folders": summaries, "comparison": [row.as_row() for row in compared]} if compared else summary
    write_json(outputs[0], content | ({"partial": bad} if bad else {}))
    if table:
        write_csv(table, summaries | after)
    if compared:
        units = {name: meaning["unit"] for name, meaning in summary["definitions"].items()}
        save_paired_differences(outputs[1], compared, units, num_not_measured=len(bad))


def _print(summaries: dict[str, Summary], compared: list[PairedDifference]) -> None:
    from nnunet_topomae.evaluation.results import (
        comparison_notes,
        comparison_table,
        definitions_text,
        heading,
        summary_table,
    )
    from nnunet_topomae.visualization.paired_differences import SHOWN

    for name, summary in summaries.items():
        print(f"\n{heading(name, summary)}\n\n{summary_table(summary)}")
    print(f"\n{definitions_text(summary)}\n")
    if compared:
        print(f"{comparison_table(compared, SHOWN)}\n\n{comparison_notes(compared)}\n")

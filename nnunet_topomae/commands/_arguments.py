"""What several commands have: options, the dataset that these name, and how a first sentence stands in a list."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any


def add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", metavar="DATASET", required=True, help="id or name of the dataset")


def add_plans(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="plans of nnU-Net (default: %(default)s)")


def add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="default: %(default)s")


def add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory", metavar="GIB", type=gibibytes, default=8.0, help="memory of the GPU in GiB (default: %(default)g)"
    )


def gibibytes(text: str) -> float:
    """A size of a memory, for `argparse`."""
    if not 0 < (size := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no size of a memory")
    return size


def read_dataset(options: argparse.Namespace) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The folder of the dataset in nnUNet_preprocessed, the plans, and the content of dataset.json."""
    from nnunet_topomae.data.dataset_json import read_dataset_json
    from nnunet_topomae.planning.plans_file import dataset_folder, read_plans

    folder = dataset_folder(options.d)
    return folder, read_plans(folder, options.p), read_dataset_json(folder)


def summary(text: str) -> str:
    """The first line of a command's text, as it stands in the list of commands."""
    line = text.partition("\n")[0].rstrip(".")
    return line[:1].lower() + line[1:]

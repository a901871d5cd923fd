"""What several commands have: options, and how their first sentence stands in a list."""

from __future__ import annotations

import argparse


def add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", metavar="DATASET", required=True, help="id or name of the dataset")


def add_plans(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="plans of nnU-Net (default: %(default)s)")


def add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="default: %(default)s")


def add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory", metavar="GIB", type=float, default=8.0, help="memory of the GPU in GiB (default: %(default)g)"
    )


def summary(text: str) -> str:
    """The first line of a command's text, as it stands in the list of commands."""
    line = text.partition("\n")[0].rstrip(".")
    return line[:1].lower() + line[1:]

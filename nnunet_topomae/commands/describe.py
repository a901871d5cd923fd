"""Show the networks that a plan gives, and their memory.

Geometry, parameters, multiply-adds, estimated memory and largest batch of both phases.
"""

from __future__ import annotations

import argparse

from nnunet_topomae.commands._arguments import add_configuration, add_dataset, add_memory, add_plans, read_dataset

EXAMPLE = "nnunet-topomae describe -d 100 --memory 24"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dataset(parser)
    add_plans(parser)
    add_configuration(parser)
    add_memory(parser)
    parser.add_argument("--all-presets", action="store_true", help="show all presets, not only the one in force")


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.planning.describe import describe

    _, plans, dataset_json = read_dataset(options)
    print(describe(plans, dataset_json, options.c, options.memory, options.all_presets))

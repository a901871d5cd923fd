"""Preprocess images without labels, for pre-training.

Pre-training uses them in every fold; fine-tuning and nnU-Net's own trainers never see them. Leave out the images that a
model is to be tested on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_topomae.commands._arguments import add_configuration, add_dataset, add_plans

HELP = "preprocess images without labels, for pre-training"
EXAMPLE = "nnunet-topomae add-unlabelled -d 100 -i scans"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dataset(parser)
    add_plans(parser)
    add_configuration(parser)
    parser.add_argument(
        "-i", metavar="FOLDER", type=Path, required=True, help="images, named as in imagesTr: CASE_0000.nii.gz, ..."
    )
    parser.add_argument("-np", metavar="N", type=int, default=4, help="processes (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="preprocess cases again that were added before")


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.data.unlabelled import add_unlabelled
    from nnunet_topomae.planning.plans_file import dataset_folder, read_dataset_json, read_plans

    folder = dataset_folder(options.d)
    plans, dataset_json = read_plans(folder, options.p), read_dataset_json(folder)
    cases = add_unlabelled(options.i, folder, plans, options.c, dataset_json, options.np, options.force)
    print(f"{len(cases)} unlabelled images will be pre-trained on: {', '.join(cases)}")

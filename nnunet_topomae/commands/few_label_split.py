"""Write a fold with few labelled cases, the rest unlabelled.

Write splits_final.json of a preprocessed dataset: one fold, whose unlabelled cases are used for pre-training alone.
Its cases are listed in a file of yours, by the number of those with labels:
{"2": {"labelled": ["a", "b"], "unlabelled": ["c", "d", "e"], "val": ["f"]}}
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_topomae.commands._arguments import add_dataset

EXAMPLE = "nnunet-topomae few-label-split -d 100 --labels 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dataset(parser)
    parser.add_argument("--labels", metavar="K", type=int, required=True, help="number of labelled cases")
    parser.add_argument(
        "--from", dest="file", metavar="FILE", type=Path, help="default: few_label_splits.json of the raw dataset"
    )
    parser.add_argument("--force", action="store_true", help="overwrite a split that exists")


def run(options: argparse.Namespace) -> None:
    from nnunetv2.paths import nnUNet_raw

    from nnunet_topomae.data.few_label import write_few_label_split
    from nnunet_topomae.planning.plans_file import dataset_folder

    folder = dataset_folder(options.d)
    description = options.file or Path(nnUNet_raw, folder.name, "few_label_splits.json")
    print(write_few_label_split(description, options.labels, folder, options.force))

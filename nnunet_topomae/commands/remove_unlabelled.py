"""Take out images that add-unlabelled has added.

Only what was preprocessed is deleted, not the images that it was made from.
"""

from __future__ import annotations

import argparse

from nnunet_topomae.commands._arguments import add_configuration, add_dataset, add_plans

HELP = "take out images that were added"
EXAMPLE = "nnunet-topomae remove-unlabelled -d 100 scan"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dataset(parser)
    add_plans(parser)
    add_configuration(parser)
    parser.add_argument("names", metavar="NAME", nargs="*", help="as list-unlabelled shows them")
    parser.add_argument("--unusable", action="store_true", help="all that other plans have made or that have a label")
    parser.add_argument("--all", action="store_true", help="all")


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.data.unlabelled import unlabelled_images
    from nnunet_topomae.planning.plans_file import dataset_folder, read_dataset_json, read_plans

    if bool(options.names) + options.unusable + options.all != 1:
        raise ValueError("name images, or give --unusable, or --all")
    folder = dataset_folder(options.d)
    plans, dataset_json = read_plans(folder, options.p), read_dataset_json(folder)
    images, unused = unlabelled_images(folder, plans, options.c, dataset_json)
    names = options.names or list(unused if options.unusable else images.names)
    strangers = sorted(set(names) - set(images.names))
    if strangers:
        raise ValueError(f"not in {images.folder}: {', '.join(strangers)}. Nothing was removed: see list-unlabelled")
    for name in names:
        images.remove(name)
    print(f"{len(names)} unlabelled images removed{': ' if names else ''}{', '.join(names)}")

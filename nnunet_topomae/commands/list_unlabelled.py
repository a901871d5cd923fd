"""List the images that add-unlabelled has added, and which of them pre-training uses.

It uses all but those that have got a label since. It refuses to start while there are some that other plans have made.
"""

from __future__ import annotations

import argparse

from nnunet_topomae.commands._arguments import add_configuration, add_dataset, add_plans

HELP = "list the images that were added, and which are used"
EXAMPLE = "nnunet-topomae list-unlabelled -d 100"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dataset(parser)
    add_plans(parser)
    add_configuration(parser)


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.data.unlabelled import unlabelled_images
    from nnunet_topomae.planning.plans_file import dataset_folder, read_dataset_json, read_plans

    folder = dataset_folder(options.d)
    plans, dataset_json = read_plans(folder, options.p), read_dataset_json(folder)
    images, unused = unlabelled_images(folder, plans, options.c, dataset_json)
    width = max(map(len, images.names), default=0)
    for name in images.names:
        print(f"{name:{width}}  {unused.get(name, 'used')}")
    print(f"{len(images.names)} unlabelled images, {len(images.names) - len(unused)} used, in {images.folder}")

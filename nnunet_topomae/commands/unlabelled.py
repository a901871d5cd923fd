"""Add images without labels for pre-training, list them, or take them out.

Pre-training uses them in every fold; fine-tuning and nnU-Net's own trainers never see them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_topomae.commands._arguments import add_configuration, add_dataset, add_plans, read_dataset, summary

if TYPE_CHECKING:
    from nnunet_topomae.data.unlabelled import UnlabelledImages

EXAMPLE = "nnunet-topomae unlabelled add -d 100 -i scans"
VERBS = {
    "add": """Preprocess images without labels.

Leave out the images that a model is to be tested on; those that are validation cases of the dataset under another name
are found and refused. A bad image does not keep the others from being added. Given again, after an interruption or with
more images in the folder, the command goes on where it stopped.
""",
    "list": """List the images that were added, and which are used.

Pre-training uses all but those that have got a label since. It refuses to start while there are some that other plans
have made.
""",
    "remove": """Take out images that were added.

Only what was preprocessed is deleted, not the images that it was made from.
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs: Any = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    add, _, remove = (verbs.add_parser(name, help=summary(text), description=text) for name, text in VERBS.items())
    for verb in verbs.choices.values():
        add_dataset(verb)
        add_plans(verb)
        add_configuration(verb)
    add.add_argument(
        "-i", metavar="FOLDER", type=Path, required=True, help="images, named as in imagesTr: CASE_0000.nii.gz, ..."
    )
    add.add_argument("-np", metavar="N", type=int, default=4, help="processes (default: %(default)s)")
    add.add_argument("--force", action="store_true", help="preprocess cases again that were added before")
    add.add_argument("--skip-bad", action="store_true", help="list images that cannot be used, and be content")
    remove.add_argument("names", metavar="NAME", nargs="*", help="as `list` shows them")
    remove.add_argument("--unusable", action="store_true", help="all that other plans have made or that have a label")
    remove.add_argument("--all", action="store_true", help="all")


def run(options: argparse.Namespace) -> None:
    {"add": _add, "list": _list, "remove": _remove}[options.verb](options)


def _add(options: argparse.Namespace) -> None:
    from nnunet_topomae.data.unlabelled_preprocessing import add_unlabelled

    folder, plans, dataset_json = read_dataset(options)
    cases = add_unlabelled(
        options.i, folder, plans, options.c, dataset_json, options.np, options.force, options.skip_bad
    )
    print(f"{len(cases)} unlabelled images will be pre-trained on: {', '.join(cases)}")


def _list(options: argparse.Namespace) -> None:
    images, unused = _added(options)
    width = max(map(len, images.names), default=0)
    for name in images.names:
        print(f"{name:{width}}  {unused.get(name, 'used')}")
    print(f"{len(images.names)} unlabelled images, {len(images.names) - len(unused)} used, in {images.folder}")


def _remove(options: argparse.Namespace) -> None:
    if bool(options.names) + options.unusable + options.all != 1:
        raise ValueError("name images, or give --unusable, or --all")
    images, unused = _added(options)
    names = options.names or list(unused if options.unusable else images.names)
    strangers = sorted(set(names) - set(images.names))
    if strangers:
        raise ValueError(f"not in {images.folder}: {', '.join(strangers)}. Nothing was removed: see unlabelled list")
    for name in names:
        images.remove(name)
    print(f"{len(names)} unlabelled images removed{': ' if names else ''}{', '.join(names)}")


def _added(options: argparse.Namespace) -> tuple[UnlabelledImages, dict[str, str]]:
    """The images, and why some are not used, by name."""
    from nnunet_topomae.data.unlabelled import unlabelled_images

    folder, plans, dataset_json = read_dataset(options)
    return unlabelled_images(folder, plans, options.c, dataset_json)

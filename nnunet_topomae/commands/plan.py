"""Write plans whose patch and batch fit a GPU.

Patch and batch of each 3d configuration such that pre-training and fine-tuning both fit. A patch is never larger than
nnU-Net's: start from plans for a larger GPU (-p nnUNetResEncUNetLPlans) to get larger ones. Spacing does not change,
so the variant trains on the data that are already preprocessed.
"""

from __future__ import annotations

import argparse
import shlex

from nnunet_topomae.commands._arguments import add_dataset, add_memory, add_plans

EXAMPLE = "nnunet-topomae plan -d 100 --memory 24 --preset small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dataset(parser)
    add_plans(parser)
    parser.add_argument(
        "-o", metavar="NAME", default="nnUNetTopoMAEPlans", help="plans to write (default: %(default)s)"
    )
    add_memory(parser)
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="size of the networks: tiny, small, base or auto (default: as the plans have it, else auto)",
    )
    parser.add_argument(
        "--partner",
        metavar="NAME",
        help="network beside the ViT: plan for nnU-Net's own, unetrpp, unetrpp_acdc or unetrpp_brats (default: as the "
        "plans have it, else plan)",
    )


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.data.dataset_json import read_dataset_json
    from nnunet_topomae.files import write_json
    from nnunet_topomae.planning.memory import fit_plans
    from nnunet_topomae.planning.plans_file import dataset_folder, new_plans_file, read_plans

    folder = dataset_folder(options.d)
    file = new_plans_file(folder, options.o)
    plans = fit_plans(
        read_plans(folder, options.p),
        read_dataset_json(folder),
        options.memory,
        options.o,
        options.preset,
        options.partner,
    )
    for name, configuration in plans["configurations"].items():
        if len(configuration.get("patch_size", ())) == 3:
            print(f"{name}: patch {configuration['patch_size']}, batch {configuration['batch_size']}")
    print(f"{write_json(file, plans)}: train with -p {shlex.quote(options.o)}")

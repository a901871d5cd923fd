"""Write plans and split of the literature.

From the plans of nnU-Net for a converted dataset: a variant with the preset's patch, pooling and schedule, and
splits_final.json with its split. docs/datasets.md has the commands for each dataset. The data that nnU-Net has
preprocessed are used unless the preset has another spacing.
"""

from __future__ import annotations

import argparse
import shlex

from nnunet_topomae.commands._arguments import add_dataset, add_plans

EXAMPLE = "nnunet-topomae apply-preset synapse -d 8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="acdc, btcv, msd_brain, msd_lung, synapse; or a file.json")
    add_dataset(parser)
    add_plans(parser)
    parser.add_argument("-o", metavar="PLANS", help="plans to write (default: those of -p, with _NAME added)")


def run(options: argparse.Namespace) -> None:
    from pathlib import Path

    from nnunetv2.paths import nnUNet_raw
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    from nnunet_topomae.planning.dataset_preset import CONFIGURATION, apply_preset, load_preset
    from nnunet_topomae.planning.plans_file import dataset_folder, read_plans

    preset = load_preset(options.name)
    folder = dataset_folder(options.d)
    cases = list(get_filenames_of_train_images_and_targets(str(Path(nnUNet_raw, folder.name))))
    new_name = options.o or f"{options.p}_{preset.name}"
    plans_file, split_file = apply_preset(preset, folder, cases, options.p, new_name)
    print(f"{plans_file}\n{split_file}")
    if not (folder / read_plans(folder, new_name)["configurations"][CONFIGURATION]["data_identifier"]).is_dir():
        preprocess = ["nnUNetv2_preprocess", "-d", options.d, "-plans_name", new_name, "-c", CONFIGURATION]
        print(f"preprocess with: {shlex.join(preprocess)}")
    train = ["nnUNetv2_train", options.d, CONFIGURATION, "0", "-tr", "TopoMAEPretrainer", "-p", new_name]
    print(f"train with: {shlex.join(train)}")

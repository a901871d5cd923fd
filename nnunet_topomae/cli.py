"""The command `nnunet-topomae`: what nnU-Net's own commands do not do."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_topomae.folders import shipped_folder

EXT_TRAINER = "nnUNet_extTrainer"


def trainers_folder() -> Path:
    """Where nnU-Net is to find the trainers."""
    return shipped_folder("trainers")


def external_trainers() -> str:
    """The value of nnUNet_extTrainer that adds our trainers to those that are set."""
    folders = [folder for folder in os.environ.get(EXT_TRAINER, "").split(os.pathsep) if folder]
    return os.pathsep.join(dict.fromkeys([*folders, str(trainers_folder())]))


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError, RuntimeError) as error:
        can_force = isinstance(error, FileExistsError) and hasattr(options, "force")
        hint = ". Use --force to overwrite it" if can_force else ""
        sys.exit(f"nnunet-topomae {options.command}: {error}{hint}")


def _env(options: argparse.Namespace) -> None:
    print(f"export {EXT_TRAINER}={shlex.quote(external_trainers())}")


def _demo(options: argparse.Namespace) -> None:
    from nnunet_topomae.demo import run_demo

    run_demo(options.out, options.dataset, options.labels, options.device)


def _few_label_split(options: argparse.Namespace) -> None:
    from nnunetv2.paths import nnUNet_raw

    from nnunet_topomae.data.few_label import write_few_label_split
    from nnunet_topomae.planning.plans_file import dataset_folder

    folder = dataset_folder(options.d)
    description = options.file or Path(nnUNet_raw, folder.name, "few_label_splits.json")
    print(write_few_label_split(description, options.labels, folder, options.force))


def _add_unlabelled(options: argparse.Namespace) -> None:
    from nnunet_topomae.data.unlabelled import add_unlabelled
    from nnunet_topomae.planning.plans_file import dataset_folder, read_dataset_json, read_plans

    folder = dataset_folder(options.d)
    plans, dataset_json = read_plans(folder, options.p), read_dataset_json(folder)
    cases = add_unlabelled(options.i, folder, plans, options.c, dataset_json, options.np, options.force)
    print(f"{len(cases)} unlabelled images will be pre-trained on: {', '.join(cases)}")


def _knobs(options: argparse.Namespace) -> None:
    from nnunet_topomae.config import describe_knobs

    print(describe_knobs())


def _describe(options: argparse.Namespace) -> None:
    from nnunet_topomae.describe import describe
    from nnunet_topomae.planning.plans_file import dataset_folder, read_dataset_json, read_plans

    folder = dataset_folder(options.d)
    plans, dataset_json = read_plans(folder, options.p), read_dataset_json(folder)
    print(describe(plans, dataset_json, options.c, options.memory, options.all_presets))


def _plan(options: argparse.Namespace) -> None:
    from nnunet_topomae.planning.memory import fit_plans
    from nnunet_topomae.planning.plans_file import (
        dataset_folder,
        new_plans_file,
        read_dataset_json,
        read_plans,
        write_json,
    )

    folder = dataset_folder(options.d)
    file = new_plans_file(folder, options.o)
    plans = fit_plans(
        read_plans(folder, options.p), read_dataset_json(folder), options.memory, options.preset, options.o
    )
    for name, configuration in plans["configurations"].items():
        if len(configuration.get("patch_size", ())) == 3:
            print(f"{name}: patch {configuration['patch_size']}, batch {configuration['batch_size']}")
    print(f"{write_json(file, plans)}: train with -p {options.o}")


def _apply_preset(options: argparse.Namespace) -> None:
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
        print(f"preprocess with: nnUNetv2_preprocess -d {options.d} -plans_name {new_name} -c {CONFIGURATION}")
    print(f"train with: nnUNetv2_train {options.d} {CONFIGURATION} 0 -tr TopoMAEPretrainer -p {new_name}")


def _convert(options: argparse.Namespace) -> None:
    from nnunetv2.paths import nnUNet_raw

    from nnunet_topomae.data.conversion.abdomen import DATASETS, convert_abdomen

    print(convert_abdomen(options.source, nnUNet_raw, options.d, DATASETS[options.name]))


def _export_encoder(options: argparse.Namespace) -> None:
    from nnunet_topomae.export import export_encoders

    for file in export_encoders(options.checkpoint, options.o, options.force):
        print(file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-topomae",
        description="Self pre-training for nnU-Net. Training itself is nnU-Net's:\n\n"
        '  eval "$(nnunet-topomae env)"\n'
        "  nnUNetv2_train DATASET 3d_fullres 0 -tr TopoMAEPretrainer\n"
        "  nnUNetv2_train DATASET 3d_fullres 0 -tr TopoMAEFinetuner",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    env = commands.add_parser("env", help=f"print the line that lets nnU-Net find the trainers ({EXT_TRAINER})")
    env.set_defaults(run=_env)

    knobs = commands.add_parser("knobs", help="print a table of all knobs (environment variables NNUNET_TOPOMAE_...)")
    knobs.set_defaults(run=_knobs)

    describe = commands.add_parser(
        "describe",
        help="show the networks that a plan gives, and their memory",
        description="Geometry, parameters, multiply-adds, estimated memory and largest batch of both phases.",
    )
    _add_dataset_and_plans(describe)
    describe.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="default: %(default)s")
    _add_memory(describe)
    describe.add_argument("--all-presets", action="store_true", help="show all presets, not only the one in force")
    describe.set_defaults(run=_describe)

    plan = commands.add_parser(
        "plan",
        help="write plans whose patch and batch fit a card",
        description="Patch and batch of each 3d configuration such that pre-training and fine-tuning both fit. A patch "
        "is never larger than nnU-Net's: start from plans for a larger card (-p nnUNetResEncUNetLPlans) to get "
        "larger ones. Spacing does not change, so the variant trains on the data that are already preprocessed.",
    )
    _add_dataset_and_plans(plan)
    plan.add_argument("-o", metavar="NAME", default="nnUNetTopoMAEPlans", help="plans to write (default: %(default)s)")
    _add_memory(plan)
    plan.add_argument(
        "--preset", default="base", help="size of the networks: tiny, small or base (default: %(default)s)"
    )
    plan.set_defaults(run=_plan)

    apply_preset = commands.add_parser(
        "apply-preset",
        help="write plans and split of the literature",
        description="From the plans of nnU-Net for a converted dataset: a variant with the preset's patch, pooling and "
        "schedule, and splits_final.json with its split. docs/datasets.md has the commands for each dataset. The data "
        "that nnU-Net has preprocessed are used unless the preset has another spacing.",
    )
    apply_preset.add_argument("name", metavar="NAME", help="acdc, btcv, msd_brain, msd_lung, synapse; or a file.json")
    _add_dataset_and_plans(apply_preset)
    apply_preset.add_argument("-o", metavar="PLANS", help="plans to write (default: those of -p, with _NAME added)")
    apply_preset.set_defaults(run=_apply_preset)

    convert = commands.add_parser(
        "convert",
        help="convert Synapse or BTCV to nnU-Net's raw format",
        description="From img/img00xx.nii.gz and label/label00xx.nii.gz, as downloaded. ACDC and the Medical "
        "Segmentation Decathlon have converters in nnU-Net: see docs/datasets.md.",
    )
    convert.add_argument("name", choices=("synapse", "btcv"), help="synapse: 8 organs; btcv: 13 organs")
    convert.add_argument("source", metavar="SOURCE", type=Path, help="folder with img and label, or with Training/img")
    convert.add_argument("-d", metavar="ID", type=int, required=True, help="id of the new dataset")
    convert.set_defaults(run=_convert)

    split = commands.add_parser(
        "few-label-split",
        help="write a fold with few labelled cases, the rest unlabelled",
        description="Write splits_final.json of a preprocessed dataset: one fold, whose unlabelled cases are used for "
        "pre-training alone.",
    )
    split.add_argument("-d", metavar="DATASET", required=True, help="id or name of the dataset")
    split.add_argument("--labels", metavar="K", type=int, required=True, help="number of labelled cases")
    split.add_argument(
        "--from", dest="file", metavar="FILE", type=Path, help="default: few_label_splits.json of the raw dataset"
    )
    split.add_argument("--force", action="store_true", help="overwrite a split that exists")
    split.set_defaults(run=_few_label_split)

    unlabelled = commands.add_parser(
        "add-unlabelled",
        help="preprocess images without labels, for pre-training",
        description="Preprocess images that have no labels. Pre-training uses them in every fold; fine-tuning and "
        "nnU-Net's own trainers never see them. Leave out the images that a model is to be tested on.",
    )
    _add_dataset_and_plans(unlabelled)
    unlabelled.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="default: %(default)s")
    unlabelled.add_argument(
        "-i", metavar="FOLDER", type=Path, required=True, help="images, named as in imagesTr: CASE_0000.nii.gz, ..."
    )
    unlabelled.add_argument("-np", metavar="N", type=int, default=4, help="processes (default: %(default)s)")
    unlabelled.add_argument("--force", action="store_true", help="preprocess cases again that were added before")
    unlabelled.set_defaults(run=_add_unlabelled)

    export = commands.add_parser(
        "export-encoder",
        help="write pre-trained networks as safetensors files",
        description="The ViT encoder and UNETR++ without its heads, of a checkpoint of TopoMAEPretrainer, with a JSON "
        "that says how to build them and to prepare images: docs/transfer.md.",
    )
    export.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="checkpoint_final.pth of a pre-training")
    export.add_argument("-o", metavar="FOLDER", type=Path, required=True, help="where to write")
    export.add_argument("--force", action="store_true", help="overwrite files that exist")
    export.set_defaults(run=_export_encoder)

    demo = commands.add_parser(
        "demo",
        help="run the whole method on a small phantom, or on a dataset of yours, in minutes",
        description="Plan, preprocess, pre-train, fine-tune, predict and evaluate with nnU-Net's own commands and a "
        "small budget. Set NNUNET_TOPOMAE_... to change the budget.",
    )
    demo.add_argument("--dataset", metavar="PATH", type=Path, help="nnU-Net raw dataset (default: write a phantom)")
    demo.add_argument("--labels", metavar="K", type=int, help="use K labels, from the dataset's few_label_splits.json")
    demo.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("topomae_demo"), help="where to write (default: %(default)s)"
    )
    demo.add_argument(
        "--device", choices=("cpu", "cuda", "mps"), default="cpu", help="device of training (default: %(default)s)"
    )
    demo.set_defaults(run=_demo)
    return parser


def _add_dataset_and_plans(command: argparse.ArgumentParser) -> None:
    command.add_argument("-d", metavar="DATASET", required=True, help="id or name of the dataset")
    command.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="plans of nnU-Net (default: %(default)s)")


def _add_memory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--memory", metavar="GIB", type=float, default=8.0, help="memory of the card in GiB (default: %(default)g)"
    )


if __name__ == "__main__":
    main()

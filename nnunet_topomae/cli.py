"""The command `nnunet-topomae`: what nnU-Net's own commands do not do."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

EXT_TRAINER = "nnUNet_extTrainer"


def trainers_folder() -> Path:
    """Where nnU-Net is to find the trainers: in the package (installed) or beside it (source tree, editable)."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_trainers", package.parent / "trainers"):
        if (folder / "TopoMAEPretrainer.py").is_file():
            return folder
    raise FileNotFoundError(f"no trainers in {package / '_trainers'} nor beside {package}: install nnunet-topomae anew")


def external_trainers() -> str:
    """The value of nnUNet_extTrainer that adds our trainers to those that are set."""
    folders = [folder for folder in os.environ.get(EXT_TRAINER, "").split(os.pathsep) if folder]
    return os.pathsep.join(dict.fromkeys([*folders, str(trainers_folder())]))


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"nnunet-topomae {options.command}: {error}")


def _env(options: argparse.Namespace) -> None:
    print(f"export {EXT_TRAINER}={shlex.quote(external_trainers())}")


def _demo(options: argparse.Namespace) -> None:
    from nnunet_topomae.demo import run_demo

    run_demo(options.out, options.dataset, options.labels, options.device)


def _few_label_split(options: argparse.Namespace) -> None:
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    from nnunet_topomae.data.few_label import write_few_label_split

    name = maybe_convert_to_dataset_name(options.d)
    description = options.file or Path(nnUNet_raw, name, "few_label_splits.json")
    try:
        print(write_few_label_split(description, options.labels, Path(nnUNet_preprocessed, name), options.force))
    except FileExistsError as error:
        raise FileExistsError(f"{error}. Use --force to overwrite it") from None


def _knobs(options: argparse.Namespace) -> None:
    from nnunet_topomae.config import describe_knobs

    print(describe_knobs())


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


if __name__ == "__main__":
    main()

"""Write pre-trained networks as safetensors files.

The ViT encoder and UNETR++ without its heads, of a checkpoint of TopoMAEPretrainer, with a JSON that says how to build
them and to prepare images: docs/transfer.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write pre-trained networks as safetensors files"
EXAMPLE = "nnunet-topomae export-encoder checkpoint_final.pth -o encoders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="checkpoint_final.pth of a pre-training")
    parser.add_argument("-o", metavar="FOLDER", type=Path, required=True, help="where to write")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.export import export_encoders

    for file in export_encoders(options.checkpoint, options.o, options.force):
        print(file)

"""Write pre-trained networks for other programs, and for nnU-Net's own trainer.

The ViT encoder and its partner without its heads, of a checkpoint of TopoMAEPretrainer, as safetensors, with a JSON
that says how to build them and to prepare images. The network of a plan (partner = plan) is written for nnUNetv2_train
-pretrained_weights, too, as plan_network_nnunet.pth: docs/transfer.md.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

EXAMPLE = "nnunet-topomae export-encoder checkpoint_final.pth -o encoders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="checkpoint_final.pth of a pre-training")
    parser.add_argument("-o", metavar="FOLDER", type=Path, required=True, help="where to write")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.export import NNUNET, export_encoders
    from nnunet_topomae.networks.partners.plan import NNUNET_TRAINER

    for file in export_encoders(options.checkpoint, options.o, options.force):
        print(file)
        if file.name.endswith(NNUNET):  # the last one
            print(
                "\nTo fine-tune with nnU-Net alone (its AdamW; why, docs/transfer.md):\nnUNetv2_train DATASET "
                f"CONFIGURATION FOLD -tr {NNUNET_TRAINER} -pretrained_weights {shlex.quote(str(file))}"
            )

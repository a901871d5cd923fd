"""Convert Synapse, BTCV or ACDC to nnU-Net's raw format.

From the files as downloaded. The Medical Segmentation Decathlon has a converter in nnU-Net: see docs/datasets.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "nnunet-topomae convert synapse RawData -d 8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = ("synapse", "btcv", "acdc")
    parser.add_argument("name", choices=names, help="synapse: 8 organs; btcv: 13 organs; acdc: the heart")
    layouts = "folder with img and label, or with Training/img; of acdc that with training and testing"
    parser.add_argument("source", metavar="SOURCE", type=Path, help=layouts)
    parser.add_argument("-d", metavar="ID", type=int, required=True, help="id of the new dataset")


def run(options: argparse.Namespace) -> None:
    from nnunetv2.paths import nnUNet_raw

    from nnunet_topomae.data.conversion.abdomen import convert_abdomen
    from nnunet_topomae.data.conversion.acdc import convert_acdc

    if options.name == "acdc":
        print(convert_acdc(options.source, nnUNet_raw, options.d))
    else:
        print(convert_abdomen(options.source, nnUNet_raw, options.d, options.name))

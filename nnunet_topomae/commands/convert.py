"""Convert Synapse or BTCV to nnU-Net's raw format.

From img/img00xx.nii.gz and label/label00xx.nii.gz, as downloaded. ACDC and the Medical Segmentation Decathlon have
converters in nnU-Net: see docs/datasets.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "nnunet-topomae convert synapse RawData -d 8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=("synapse", "btcv"), help="synapse: 8 organs; btcv: 13 organs")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder with img and label, or with Training/img")
    parser.add_argument("-d", metavar="ID", type=int, required=True, help="id of the new dataset")


def run(options: argparse.Namespace) -> None:
    from nnunetv2.paths import nnUNet_raw

    from nnunet_topomae.data.conversion.abdomen import convert_abdomen

    print(convert_abdomen(options.source, nnUNet_raw, options.d, options.name))

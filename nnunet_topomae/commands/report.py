"""Write a page about trainings: knobs, curves, reconstructions, worst cases.

One file, which needs no network and no server. Give the folder of a fold, or a model's or dataset's with all folds in
it. Several are shown side by side: pre-trained, from scratch, and nnU-Net's own trainers. Segmented cases are shown
where nnUNet_raw and nnUNet_preprocessed hold the images and references.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "nnunet-topomae report nnUNet_results/Dataset100_Phantom -o report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="RESULTS_FOLDER", nargs="+", type=Path, help="of trainings of nnU-Net")
    parser.add_argument(
        "-o", metavar="FILE", type=Path, default=Path("report.html"), help="page to write (default: %(default)s)"
    )
    parser.add_argument(
        "--cases", metavar="N", type=int, default=5, help="worst segmented cases shown (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.report.page import write_report

    if options.cases < 0:
        raise ValueError(f"--cases must be at least 0, not {options.cases}")
    page = write_report(options.folders, options.o, options.cases)
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB")

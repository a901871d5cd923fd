"""Run the whole method on a small phantom, or on a dataset of yours, in minutes.

Plan, preprocess, pre-train, fine-tune, predict and evaluate with nnU-Net's own commands and a small budget. Set
NNUNET_TOPOMAE_... to change the budget.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "nnunet-topomae demo --out topomae_demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", metavar="PATH", type=Path, help="nnU-Net raw dataset (default: write a phantom)")
    parser.add_argument(
        "--labels", metavar="K", type=int, help="use K labels, from the dataset's few_label_splits.json"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("topomae_demo"), help="where to write (default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "mps"), default="cpu", help="device of training (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    from nnunet_topomae.demo.run import run_demo

    run_demo(options.out, options.dataset, options.labels, options.device)

"""Draw a crop and its reconstructions without and with the topological loss.

Figure 1 of the paper, for any two trainings of TopoMAEPretrainer on one dataset. Columns: input, masked input, and each
network of both, with the error on masked voxels and the topological distance; rows: three planes. The crop comes from a
case that both validate on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "nnunet-topomae figure without/fold_all with/fold_all -o figure1.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    metavar = "FOLDER_OR_CHECKPOINT"
    parser.add_argument("without", metavar=f"WITHOUT_{metavar}", type=Path, help="pre-trained with weight_topology=0")
    parser.add_argument("with_topology", metavar=f"WITH_{metavar}", type=Path, help="pre-trained with the loss")
    parser.add_argument(
        "-o", metavar="FILE", type=Path, default=Path("figure1.png"), help="picture to write (default: %(default)s)"
    )
    parser.add_argument("--case", metavar="CASE", help="default: the first validation case of both")
    parser.add_argument("--force", action="store_true", help="overwrite a picture that exists")


def run(options: argparse.Namespace) -> None:
    if options.o.exists() and not options.force:
        raise FileExistsError(f"{options.o} exists")
    if not options.o.absolute().parent.is_dir():
        raise FileNotFoundError(f"{options.o.parent} does not exist: make the folder first, or name another with -o")
    from nnunet_topomae.report.reconstruction_pair import save_comparison_figure

    case = save_comparison_figure(options.o, options.without, options.with_topology, options.case)
    print(f"{options.o}: {case}")

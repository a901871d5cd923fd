"""Print the line that tells nnU-Net where the trainers are.

It adds their folder to nnUNet_extTrainer and keeps what is set there. It belongs in each shell, or in its start file.
"""

from __future__ import annotations

import argparse
import shlex

from nnunet_topomae.folders import EXT_TRAINER, external_trainers

HELP = f"print the line that lets nnU-Net find the trainers ({EXT_TRAINER})"
EXAMPLE = 'eval "$(nnunet-topomae env)"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace) -> None:
    print(f"export {EXT_TRAINER}={shlex.quote(external_trainers())}")

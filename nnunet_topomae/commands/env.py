"""Print the line that lets nnU-Net find the trainers (nnUNet_extTrainer).

It adds their folder to nnUNet_extTrainer and keeps what is set there. It belongs in each shell, or in its start file.
"""

from __future__ import annotations

import argparse
import shlex

from nnunet_topomae.folders import EXT_TRAINER, external_trainers

EXAMPLE = 'eval "$(nnunet-topomae env)"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace) -> None:
    print(f"export {EXT_TRAINER}={shlex.quote(external_trainers())}")

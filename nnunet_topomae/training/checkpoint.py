"""Reading nnU-Net's checkpoints."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def read_checkpoint(checkpoint: str | Path) -> dict[str, Any]:
    """All of a checkpoint that nnU-Net is about to load itself, or has: its pickle is trusted. Tensors stay on disk."""
    return torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)


def load_network_weights(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """The network's state dict, on the CPU, without running code that may hide in the file.

    A checkpoint is a pickle, and unpickling can run anything; here PyTorch's restricted reader is used.

    Raises:
        ValueError: the file is no checkpoint, or holds objects that the restricted reader refuses.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{checkpoint} cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, dict) or "network_weights" not in content:
        raise ValueError(f"{checkpoint} holds no 'network_weights': it was not written by a nnU-Net trainer")
    return content["network_weights"]


def weights_option(command: Sequence[str]) -> str | None:
    """What nnU-Net's option -pretrained_weights names on a command line (`sys.argv`): it tells a trainer only there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-p")  # else the plans' name would be read as the short form of the other
    parser.add_argument("-pretrained_weights")
    return parser.parse_known_args(command[1:])[0].pretrained_weights


def refuse_pretraining_checkpoint(checkpoint: str | Path) -> None:
    """Raises ValueError where -pretrained_weights, which takes a whole network, names one of TopoMAEPretrainer."""
    if read_checkpoint(checkpoint).get("trainer_name") == "TopoMAEPretrainer":
        raise ValueError(
            f"-pretrained_weights {checkpoint} is a checkpoint of TopoMAEPretrainer, which holds other networks than "
            f"TopoMAEFinetuner. To fine-tune it, leave the option out and set NNUNET_TOPOMAE_PRETRAINED={checkpoint}"
        )

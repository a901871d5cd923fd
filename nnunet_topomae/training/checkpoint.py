"""Reading weights from a nnU-Net checkpoint without running code that may hide in it."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch


def load_network_weights(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """The network's state dict, on the CPU.

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

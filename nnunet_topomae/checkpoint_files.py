"""Checkpoints are pickles, and to unpickle can run any program: they are read here, and nowhere else."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


def _encode(text: str, encoding: str) -> bytes:
    """How old pickles spell bytes."""
    return text.encode(encoding)


# What nnU-Net logs beside weights: NumPy's numbers, which PyTorch's restricted reader does not know by itself.
KINDS = (bool, np.int32, np.int64, np.float16, np.float32, np.float64)
NUMBERS: list[Any] = [np.dtype, *(type(np.dtype(kind)) for kind in KINDS), (_encode, "_codecs.encode")]
NUMBERS += [(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]


def read_restricted(file: str | Path, mmap: bool = False) -> Any:
    """The content of a checkpoint, of which nothing is run that may hide in it.

    Args:
        file: written by `torch.save`.
        mmap: leave tensors on the disk until they are used, for who wants other things.

    Raises:
        OSError: there is no such file, or no right to read it.
        ValueError: the file is damaged, or holds objects that could run a program; the message names it.
    """
    with Path(file).open("rb") as stream, torch.serialization.safe_globals(NUMBERS):
        try:
            return torch.load(file if mmap else stream, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:  # without PyTorch's advice to read the file without restrictions
            names = "".join(f" ({name})" for name in re.findall(r"GLOBAL (\S+)", str(error))[:1])
            reason = f"it is damaged, or holds what could run a program when it is opened{names}"
        except Exception as error:  # a damaged file fails in as many ways as a zip or a pickle has parts
            reason = f"{type(error).__name__}: {error}"
    raise ValueError(f"{file} cannot be read as a checkpoint: {reason}")


def read_trusted_checkpoint(file: str | Path) -> dict[str, Any]:
    """All of a checkpoint that nnU-Net is about to load itself, or has: its pickle is trusted.

    Tensors stay on disk, unless the file has PyTorch's layout of before 1.6, which is no zip.

    Raises:
        OSError: there is no such file, or no right to read it.
        ValueError: the file is damaged, or no checkpoint of a nnU-Net trainer.
    """
    with Path(file).open("rb"):
        pass
    try:
        content = torch.load(file, map_location="cpu", weights_only=False, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged file fails in as many ways as a zip or a pickle has parts
        raise ValueError(f"{file} cannot be read as a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict) or "network_weights" not in content:
        raise ValueError(f"{file} holds no 'network_weights': it was not written by a nnU-Net trainer")
    return content

"""Random numbers of the augmentation, and of what else is drawn aside, apart from all others of the process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def own_random_numbers(origin: Sequence[int], device: torch.device) -> Iterator[None]:
    """What is drawn within follows from `origin` (not negative), and what is drawn after is as if nothing had been.

    Three generators are meant: NumPy's global one and PyTorch's of the CPU, by which batchgeneratorsv2 draws
    parameters, and PyTorch's of the device, which makes the noise. A training draws dropout and crops from the same.
    """
    for_numpy, for_torch = np.random.SeedSequence(origin).generate_state(2).tolist()
    of_numpy, of_cpu, accelerator = np.random.get_state(), torch.get_rng_state(), _accelerator(device)
    of_device = accelerator.get_rng_state() if accelerator else None
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)
    if accelerator:
        accelerator.manual_seed(for_torch)
    try:
        yield
    finally:
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_cpu)
        if accelerator:
            accelerator.set_rng_state(of_device)


@contextmanager
def numpy_generator_kept() -> Iterator[None]:
    """What is drawn from NumPy's global generator within, as nnU-Net's loader does, changes nothing drawn after."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


def _accelerator(device: torch.device) -> Any:
    """`torch.cuda` or `torch.mps`, whose generators are those of the current device; None for a CPU."""
    return None if device.type == "cpu" else getattr(torch, device.type)

"""A training that has diverged ends with advice, before it overwrites its last good checkpoint.

A gradient scaler hides divergence: it skips every step whose gradients are not finite, and halves its scale. Losses
that are not finite then change nothing, epoch after epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch


class StepCounter:
    """Counts the steps that an optimiser takes until `stop`; those that a gradient scaler skips do not count.

    The scaler does not call the step of a plain optimiser. That of a fused one it calls, with `found_inf` on the device
    for it to skip by, which is read here in `stop` alone.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.taken: int | torch.Tensor = 0
        self._hook = optimizer.register_step_post_hook(self._count)

    def _count(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        self.taken = self.taken + (1 if found_inf is None else found_inf == 0)

    def stop(self) -> int:
        self._hook.remove()
        return int(self.taken)


def is_searching(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> bool:
    """Whether skipped steps are the scaler's search at the start, which takes up to 16: 65536 is halved until it fits.

    Then the last gradients are not finite, and the scale is still a large number.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return not all_finite(gradients) and scaler.get_scale() >= 1


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """No NaN and no infinity in any of them; one transfer from the device."""
    finite = [tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    return not finite or bool(torch.stack(finite).all())


def divergence(what: str, remedy: str, output_folder: str | Path) -> FloatingPointError:
    """The error to raise: what is wrong, how to train on, and from where.

    Args:
        what: has happened.
        remedy: what to change.
        output_folder: of the training, with its checkpoints.
    """
    for name in ("latest", "best"):
        file = Path(output_folder, f"checkpoint_{name}.pth")
        if file.is_file():
            return FloatingPointError(f"{what}. {remedy}, and go on with --c: {file} is from before")
    return FloatingPointError(f"{what}. {remedy}, and start again: no checkpoint has been written")

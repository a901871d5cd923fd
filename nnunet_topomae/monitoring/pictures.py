"""Pictures that a training draws meanwhile, for its folder and the loggers of nnU-Net."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunetv2.training.logging.nnunet_logger import WandbLogger


@contextmanager
def never_fatal(what: str, log: Callable[[str], object]) -> Iterator[None]:
    """No picture is worth a training: whatever fails within, be it the drawing or the disk, is a line in the log."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        log(f"WARNING: {what} could not be drawn, the training goes on: {type(error).__name__}: {reason}")


def log_picture(loggers: Sequence[object], key: str, file: Path, epoch: int) -> None:
    """To wandb, where `loggers`, those of nnU-Net's MetaLogger, hold its logger.

    Not through the MetaLogger: that keeps what it logs in every checkpoint.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            logger.log(key, wandb.Image(str(file)), epoch)

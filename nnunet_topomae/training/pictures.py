"""Pictures to the loggers of nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunetv2.training.logging.nnunet_logger import WandbLogger


def log_picture(loggers: Sequence[object], key: str, file: Path, epoch: int) -> None:
    """To wandb, where `loggers`, those of nnU-Net's MetaLogger, hold its logger.

    Not through the MetaLogger: that keeps what it logs in every checkpoint.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            logger.log(key, wandb.Image(str(file)), epoch)

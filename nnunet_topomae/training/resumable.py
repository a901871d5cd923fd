"""Checkpoints that survive whatever ends a training."""

from __future__ import annotations

import math
import os
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from batchgenerators.utilities.file_and_folder_operations import join
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_topomae.files import written_whole

SAVING_TIME = 1 / 50  # writing checkpoint_latest takes at most about this part of the time


class ResumableTrainer(nnUNetTrainer):
    """nnU-Net's trainer with checkpoints that are written atomically and often.

    Attributes:
        next_latest: when checkpoint_latest is to be written again, on the clock of `time.monotonic`.
    """

    next_latest = -math.inf

    def save_latest(self) -> None:
        """Writes checkpoint_latest after an epoch (which `current_epoch` has left), unless disks are so slow that it
        would take more than `SAVING_TIME` of all time: an interrupted training loses little, and a long one no speed.
        """
        begin = monotonic()
        if begin < self.next_latest or self.current_epoch == self.num_epochs:
            return
        self.current_epoch -= 1  # nnU-Net stores the number that follows
        self.save_checkpoint(join(self.output_folder, "checkpoint_latest.pth"))
        self.current_epoch += 1
        self.next_latest = monotonic() + (monotonic() - begin) / SAVING_TIME

    def save_checkpoint(self, filename: str) -> None:
        """As nnU-Net's, but the file appears whole or not at all, whenever the process or the machine dies.

        Raises:
            OSError: it could not be written; the one that was there before still is.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)  # writes nothing
            return
        try:
            with written_whole(Path(filename)) as partial, partial.open("wb") as file:
                self._write_checkpoint(file)
                file.flush()
                os.fsync(file.fileno())  # else the machine's end could leave the name without the content
        except OSError as error:
            raise OSError(
                f"{error}. An earlier checkpoint there is whole: free some space, and go on with the command and --c"
            ) from error

    def _write_checkpoint(self, file: BinaryIO) -> None:
        try:
            super().save_checkpoint(file)
        except RuntimeError as error:  # torch.save raises its own on top of the disk's
            raise error.__context__ or error from error

    def remove_partial_checkpoints(self) -> None:
        """What a process leaves that is killed while it writes; those of version 0.2 had another name."""
        for pattern in (".*.partial*", "checkpoint_*.pth.partial"):
            for partial in Path(self.output_folder).glob(pattern):
                partial.unlink()

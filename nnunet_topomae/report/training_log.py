"""What nnU-Net's training_log_*.txt tell about a training, in a few lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

LONGEST = 400
LINE = re.compile(r"^(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?: ?)?(.*?)\s*$")
NUMBER = re.compile(r"\d[\d.]*(?:e[-+]?\d+)?")
WARNING = re.compile(r"warning|\berror\b|Traceback|The image is constant|The learning rate is 0", re.IGNORECASE)
PRETRAINED = "Pre-trained weights: "  # as TopoMAEFinetuner says where its weights are from


class TrainingLog(NamedTuple):
    """`warnings` once each; `last` line and when it was `written`; `pretrained`: it began with other weights."""

    warnings: Sequence[str] = ()
    last: str = ""
    written: datetime | None = None
    pretrained: bool = False


def read_logs(folder: Path) -> TrainingLog:
    """All logs of a fold, one for each time that it was started."""
    files = sorted(file for file in folder.glob("training_log_*.txt") if file.is_file())
    lines = [
        LINE.sub(r"\1", line)[:LONGEST] for file in files for line in file.read_text(errors="replace").splitlines()
    ]
    told = [line for line in lines if line]
    return TrainingLog(
        _once_each([line for line in told if WARNING.search(line)]),
        told[-1] if told else "",
        datetime.fromtimestamp(max(file.stat().st_mtime for file in files)) if files else None,
        any(line.startswith(PRETRAINED) for line in told),
    )


def _once_each(warnings: Sequence[str]) -> list[str]:
    """Those that differ in numbers alone are one, the last, with how often it came."""
    kinds = Counter(NUMBER.sub("#", warning) for warning in warnings)
    last = {NUMBER.sub("#", warning): warning for warning in warnings}
    return [f"{last[kind]}{f' ({count} times)' if count > 1 else ''}" for kind, count in kinds.items()]

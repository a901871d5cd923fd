"""Files are written as a whole or not at all, whatever ends the process or fills the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Gives a path beside `file` to write to, which takes the place of `file` when the block ends well.

    The path ends as `file` does, for writers that choose a format by it. What goes wrong in the block leaves nothing
    behind, and whatever was at `file` before.

    Raises:
        OSError: the block failed; the message names `file`. Each library reports a full disk by another exception, so
            keep all but writing out of the block.
    """
    partial = file.with_name(f".{uuid4().hex}.partial{''.join(file.suffixes[-2:])}")
    try:
        yield partial
        partial.replace(file)
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(f"{file} could not be written: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> Path:
    """UTF-8, line ends as they are; names of files, which need not be text, lose what is none."""
    with written_whole(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace", newline="")
    return file


def write_json(file: Path, content: Any, indent: int | None = 4) -> Path:
    """With NumPy numbers and arrays as plain ones."""
    return write_text(file, json.dumps(content, indent=indent, default=lambda value: np.asarray(value).tolist()) + "\n")


def read_json(file: Path) -> Any:
    """Raises OSError, or ValueError that names the file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no valid JSON: {error}") from error


def is_list_of_names(value: object) -> bool:
    """Of what a JSON file may hold where cases are to be listed."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)

"""Values out of files that anybody may have written: the right kind of value, or a plain nothing."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

LONGEST = 300  # letters of a value in a table


def dictionary(value: Any) -> dict[str, Any]:
    """What of it has a name; empty where it is no dictionary."""
    return {name: inner for name, inner in value.items() if isinstance(name, str)} if isinstance(value, Mapping) else {}


def number(value: Any) -> float:
    """NaN where it is none, or too large to be one."""
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan


def numbers(values: Any) -> dict[str, float]:
    """Those of a dictionary's values that are numbers, NaN among them."""
    return {
        name: number(value)
        for name, value in dictionary(values).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def text(value: Any) -> str:
    """As `str`, shortened."""
    try:
        said = str(value)
    except (ValueError, RecursionError):  # a whole number of more digits than Python writes
        return "what cannot be written"
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}…"


def literal(value: Any) -> Any:
    """What a text such as '250' or '[1, 2]' stands for; the text itself where that is nothing of Python's."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def file_name(path: str) -> str:
    """The last part of a path as another machine wrote it, with slashes or with Windows' backslashes."""
    return (PurePosixPath(path) if path.startswith("/") else PureWindowsPath(path)).name


def counted(cases: int) -> str:
    """'1 case', '2 cases'."""
    return f"{cases} case{'' if cases == 1 else 's'}"

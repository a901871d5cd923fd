"""Values as the page says them."""

from __future__ import annotations

from typing import Any

LONGEST = 300  # letters of a value from a file that anybody may have written


def text(value: Any) -> str:
    """As `str`, shortened."""
    try:
        said = str(value)
    except (ValueError, RecursionError):  # a whole number of more digits than Python writes
        return "what cannot be written"
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}…"


def counted(cases: int) -> str:
    """'1 case', '2 cases'."""
    return f"{cases} case{'' if cases == 1 else 's'}"

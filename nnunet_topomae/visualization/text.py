"""Names from data in pictures: a case may be called `a$b$`, with a line break, or in bytes that are no text."""

from __future__ import annotations

LONGEST = 60  # letters; a picture is not made wider for a name


def plain(name: str) -> str:
    """The name on one line, without what no font shows, its middle left out where it is long.

    Matplotlib takes what is between two $ for a formula: set such a text with `parse_math=False`.
    """
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    half = LONGEST // 2
    return shown if len(shown) <= LONGEST else f"{shown[:half]}…{shown[-half + 1 :]}"

"""Show all knobs (environment variables NNUNET_TOPOMAE_...), or one.

A knob is an environment variable, NNUNET_TOPOMAE_ and its name in capitals (NNUNET_TOPOMAE_PRETRAIN_EPOCHS=300), or an
entry of the section `topomae` in the plans file.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields
from typing import Any

from nnunet_topomae.config import ENVIRONMENT_PREFIX, PHASES, TopoMAEConfig
from nnunet_topomae.visualization.tables import markdown_table

EXAMPLE = "nnunet-topomae knobs mask_ratio"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one only, with the values that it takes")
    parser.add_argument("--markdown", action="store_true", help="as Markdown tables, with the values that knobs take")


def run(options: argparse.Namespace) -> None:
    knobs = {knob.name: knob for knob in fields(TopoMAEConfig)}
    name = (options.name or "").lower().removeprefix(ENVIRONMENT_PREFIX.lower())
    if name and name not in knobs:
        raise ValueError(f"no knob {options.name!r}: nnunet-topomae knobs lists them all")
    chosen = [knobs[name]] if name else list(knobs.values())
    if options.markdown:
        print("\n\n".join(knobs_as_markdown(chosen)))
    else:
        print(one_knob(knobs[name]) if name else knobs_as_text(shutil.get_terminal_size().columns))


def knobs_as_markdown(knobs: Sequence[Field[Any]]) -> Iterator[str]:
    """A table a phase."""
    for phase in PHASES:
        rows = [
            [f"`{knob.name}`", f"`{_default(knob)}`", _takes(knob), knob.metadata["meaning"]]
            for knob in knobs
            if knob.metadata["phase"] == phase
        ]
        if rows:
            yield f"### {phase}\n\n{markdown_table(['knob', 'default', 'takes', 'meaning'], rows)}"


def knobs_as_text(width: int) -> str:
    """A table a phase, of name, default and meaning, wrapped to `width` columns."""
    knobs = fields(TopoMAEConfig)
    first, second = (max(map(len, column)) + 2 for column in zip(*((k.name, _default(k)) for k in knobs), strict=True))
    lines = []
    for phase in PHASES:
        lines += ["", phase]
        for knob in (knob for knob in knobs if knob.metadata["phase"] == phase):
            head = f"  {knob.name:{first}}{_default(knob):{second}}"
            width_of_line, indent = max(width, len(head) + 20), " " * len(head)
            text = head + knob.metadata["meaning"]
            lines += textwrap.wrap(text, width_of_line, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join([*lines[1:], "", "One of them, and what it takes: nnunet-topomae knobs NAME"])


def one_knob(knob: Field[Any]) -> str:
    """All there is to say about a knob, a line each."""
    rows = {
        "meaning": knob.metadata["meaning"],
        "takes": _takes(knob),
        "default": _default(knob),
        "read in": knob.metadata["phase"],
        "set it by": f"export {ENVIRONMENT_PREFIX}{knob.name.upper()}=...",
    }
    return "\n".join([knob.name, *(f"  {name:11}{value}" for name, value in rows.items() if value)])


def _takes(knob: Field[Any]) -> str:
    text: str = "True or False" if isinstance(knob.default, bool) else knob.metadata["valid"][0]
    return text


def _default(knob: Field[Any]) -> str:
    """As it is typed into a shell, then its unit."""
    value = ",".join(map(str, knob.default)) if isinstance(knob.default, tuple) else str(knob.default)
    return f"{value or repr(value)} {knob.metadata['unit']}".rstrip()

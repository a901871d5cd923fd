"""Show all knobs, by the phase that reads them.

A knob is an environment variable, NNUNET_TOPOMAE_ and its name in capitals (NNUNET_TOPOMAE_PRETRAIN_EPOCHS=300), or an
entry of the section `topomae` in the plans file.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any

from nnunet_topomae.config import ENVIRONMENT_PREFIX, PHASES, TopoMAEConfig
from nnunet_topomae.visualization.tables import markdown_table

HELP = "show all knobs (environment variables NNUNET_TOPOMAE_...), or one"
EXAMPLE = "nnunet-topomae knobs mask_ratio"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one only, with the values that it takes")
    parser.add_argument("--markdown", action="store_true", help="as Markdown tables, with the values that knobs take")


def run(options: argparse.Namespace) -> None:
    knobs = {knob.name: knob for knob in fields(TopoMAEConfig)}
    if options.name is None:
        print(knobs_as_markdown() if options.markdown else knobs_as_text(shutil.get_terminal_size().columns))
        return
    name = options.name.lower().removeprefix(ENVIRONMENT_PREFIX.lower())
    if name not in knobs:
        raise ValueError(f"no knob {options.name!r}: nnunet-topomae knobs lists them all")
    print(markdown_table(*_markdown_rows([knobs[name]])) if options.markdown else one_knob(knobs[name]))


def knobs_as_text(width: int) -> str:
    """A table a phase, of name, default and meaning, wrapped to `width` columns."""
    names, defaults = zip(*((knob.name, _default(knob)) for knob in fields(TopoMAEConfig)), strict=True)
    first, second = max(map(len, names)) + 2, max(map(len, defaults)) + 2
    lines = []
    for phase, knobs in _by_phase():
        lines += ["", phase]
        for knob in knobs:
            head = f"  {knob.name:{first}}{_default(knob):{second}}"
            lines += textwrap.wrap(
                knob.metadata["meaning"],
                max(width, len(head) + 20),
                initial_indent=head,
                subsequent_indent=" " * len(head),
                break_on_hyphens=False,
            )
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


def knobs_as_markdown() -> str:
    """A table a phase."""
    return "\n\n".join(f"### {phase}\n\n{markdown_table(*_markdown_rows(knobs))}" for phase, knobs in _by_phase())


def _markdown_rows(knobs: list[Field[Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    rows = [[f"`{knob.name}`", f"`{_default(knob)}`", _takes(knob), knob.metadata["meaning"]] for knob in knobs]
    return ["knob", "default", "takes", "meaning"], rows


def _by_phase() -> Iterator[tuple[str, list[Field[Any]]]]:
    for phase in PHASES:
        yield phase, [knob for knob in fields(TopoMAEConfig) if knob.metadata["phase"] == phase]


def _takes(knob: Field[Any]) -> str:
    return "True or False" if isinstance(knob.default, bool) else knob.metadata["valid"][0]


def _default(knob: Field[Any]) -> str:
    """As it is typed into a shell, then its unit."""
    value = ",".join(map(str, knob.default)) if isinstance(knob.default, tuple) else str(knob.default)
    return f"{value or repr(value)} {knob.metadata['unit']}".rstrip()

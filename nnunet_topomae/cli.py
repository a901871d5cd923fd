"""The command `nnunet-topomae`: what nnU-Net's own commands do not do. `commands/` has a file for each subcommand."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from nnunet_topomae import __version__
from nnunet_topomae.commands._arguments import summary

COMMANDS = (  # in the order in which a newcomer meets them
    "env",
    "demo",
    "convert",
    "apply-preset",
    "plan",
    "describe",
    "few-label-split",
    "unlabelled",
    "evaluate",
    "report",
    "knobs",
    "export-encoder",
)
RENAMED = {f"{verb}-unlabelled": ["unlabelled", verb] for verb in ("add", "list", "remove")}  # names of version 0.2

DESCRIPTION = """\
Self pre-training for nnU-Net: masked autoencoders that look at topology and position.

With a dataset that nnUNetv2_plan_and_preprocess has prepared, training and prediction are nnU-Net's own commands:

  eval "$(nnunet-topomae env)"
  nnUNetv2_train DATASET 3d_fullres 0 -tr TopoMAEPretrainer
  nnUNetv2_train DATASET 3d_fullres 0 -tr TopoMAEFinetuner
  nnUNetv2_predict -i IMAGES -o PREDICTIONS -d DATASET -c 3d_fullres -f 0 -tr TopoMAEFinetuner

The commands below do what is left. Begin with `nnunet-topomae demo`: it runs all of this on a small phantom."""

EPILOGUE = "nnunet-topomae COMMAND --help tells more, with an example."


def main(arguments: Sequence[str] | None = None) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # no result is lost because a terminal has no "−"
    options = _parser().parse_args(_renamed(list(sys.argv[1:] if arguments is None else arguments)))
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `nnunet-topomae knobs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _stop(f"nnunet-topomae {options.command}: interrupted", status=130)
    except (OSError, ValueError, RuntimeError) as error:
        can_force = isinstance(error, FileExistsError) and hasattr(options, "force")
        hint = ". Use --force to overwrite it" if can_force else ""
        _stop(f"nnunet-topomae {options.command}: {error}{hint}")


def _stop(message: str, status: int = 2) -> NoReturn:
    print(" ".join(line.strip() for line in message.splitlines()), file=sys.stderr)
    sys.exit(status)


def _renamed(arguments: list[str]) -> list[str]:
    """With today's name for a command that an older version called otherwise."""
    old = arguments[0] if arguments else ""
    if old not in RENAMED:
        return arguments
    print(f"nnunet-topomae {old} is now called: nnunet-topomae {' '.join(RENAMED[old])}", file=sys.stderr)
    return RENAMED[old] + arguments[1:]


class _Parser(argparse.ArgumentParser):
    """Errors are one line, and descriptions keep their paragraphs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        _stop(f"{self.prog}: {message}. See {self.prog} --help")


class _Formatter(argparse.HelpFormatter):
    """Paragraphs are wrapped, indented ones are left as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(map(len, COMMANDS)) + 4  # argparse forgets that names of commands are indented

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            textwrap.indent(paragraph, indent)
            if paragraph.startswith(" ")
            else textwrap.fill(
                paragraph, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
            )
            for paragraph in text.strip("\n").split("\n\n")
        )


class _Version(argparse.Action):
    """Prints what a report of a fault has to name."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="show the versions of this and nnU-Net")

    def __call__(self, parser: argparse.ArgumentParser, *unused: Any) -> NoReturn:
        from importlib.metadata import version

        python = ".".join(map(str, sys.version_info[:3]))
        others = f"nnU-Net {version('nnunetv2')}, PyTorch {version('torch')}, Python {python}"
        print(f"nnunet-topomae {__version__} ({others})")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nnunet-topomae", usage="%(prog)s COMMAND ...", description=DESCRIPTION, epilog=EPILOGUE)
    parser.add_argument("--version", action=_Version)
    commands: Any = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True, prog="nnunet-topomae"
    )
    for name in COMMANDS:
        command = importlib.import_module(f"nnunet_topomae.commands.{name.replace('-', '_')}")
        text, example = command.__doc__ or "", f"example:\n\n  {command.EXAMPLE}"
        subparser = commands.add_parser(name, help=summary(text), description=text, epilog=example)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    main()

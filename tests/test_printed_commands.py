"""A command that is printed to be typed works for names and paths with spaces and quotes: all places at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "nnunet_topomae"
COMMAND = re.compile(r"(nnunet-topomae [a-z-]+|nnUNetv2_\w+|NNUNET_TOPOMAE_PRETRAINED=)")
SAFE = {"options_of(plans, self.configuration_name)", "options", "command"}  # quoted where they are made
OURS = {"type(self).__name__", "preset", "partner"}  # beside constants


def values_in_commands(text: ast.JoinedStr) -> Iterator[str]:
    """What an f-string puts behind the name of a command, as source; numbers with a format have one of their own."""
    in_command = False
    for part in text.values:
        if isinstance(part, ast.Constant):
            after = re.split(COMMAND, str(part.value))
            in_command = "\n" not in after[-1] and (in_command or len(after) > 1)
        elif in_command and part.format_spec is None:
            yield ast.unparse(part.value)


def test_what_is_put_into_a_printed_command_is_quoted() -> None:
    found, bare = 0, []
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        quoted = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and "shlex." in ast.unparse(node.value)
            for name in node.targets
            for target in ast.walk(name)
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            for value in values_in_commands(node) if isinstance(node, ast.JoinedStr) else ():
                found += 1
                if not (value.startswith("shlex.") or value.isupper() or value in SAFE | OURS | quoted):
                    bare.append(f"{file.name}: {value}")
    assert found > 5 and bare == []

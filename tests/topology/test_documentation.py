"""The examples of docs/topology.md run as typed."""

import re
from pathlib import Path

import matplotlib
import pytest

EXAMPLES = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "topology.md").read_text(), re.S)


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"example {i + 1}" for i in range(len(EXAMPLES))])
def test_example(example: str) -> None:
    matplotlib.use("Agg")
    exec(compile(example, "docs/topology.md", "exec"), {})


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4

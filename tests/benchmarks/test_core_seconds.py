"""The page of the benchmark of core-seconds."""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import core_seconds  # noqa: E402


def rows(page: Path) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines() if "|" in line]


def test_cores_follow_from_what_was_measured(tmp_path):
    data = {
        (tree, patch, what): [seconds] * 3
        for tree, seconds in (("now", 0.1), ("before", 0.5))
        for patch in (0, 1)
        for what in ("device", "workers")
    }
    core_seconds.report(
        Namespace(docs=tmp_path, before=tmp_path),
        data | {("now", 0, "smooth"): [0.6], ("now", 0, "noisy"): [2.0, 1.6, 9.9]},
    )
    page = rows(tmp_path / "speed.md")
    assert ["128×128×128", "device", "0.013", "0.10", "0.50", "5.0"] in page
    assert ["128×128×128", "8", "1", "0.70 to 2.10", "4.0 to 12.0", "6.1 to 18.3"] in page  # 0.7 s / 0.175 s
    assert ["64×128×128", "1", "4", "0.16 to 0.51", "–", "–"] in page

"""What README.md and its like promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnunet_topomae import __version__

REPOSITORY = Path(__file__).parents[1]
PAGES = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("plans/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    targets = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_citation_and_changelog_name_this_version() -> None:
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [__version__]
    assert re.findall(r"^## ([\d.]+)", changelog, re.MULTILINE)[0] == __version__


def test_dice_in_the_readme_is_that_of_the_benchmarks() -> None:
    readme, *pages = (
        set(re.findall(r"\b0\.\d{3}\b", (REPOSITORY / page).read_text(encoding="utf-8")))
        for page in ("README.md", "docs/benchmarks.md", "docs/experiments.md")
    )
    assert readme and readme <= set.union(*pages)

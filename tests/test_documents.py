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
    """But for the table, which is written from the results (tests/benchmarks/test_few_labels_page.py)."""
    readme, *pages = (
        (REPOSITORY / page).read_text(encoding="utf-8")
        for page in ("README.md", "docs/benchmarks.md", "docs/experiments.md")
    )
    in_words = re.sub("<!-- equal-computing:begin.*:end -->", "", readme, flags=re.DOTALL)
    in_words, *measured = (set(re.findall(r"\b0\.\d{3}\b", text)) for text in (in_words, *pages))
    assert in_words and in_words <= set.union(*measured)

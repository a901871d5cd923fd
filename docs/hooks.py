"""MkDocs hooks: files outside docs/ become pages of the site, and links between files of the repository hold there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
OUTSIDE = {  # file of the repository: its place in the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "plans/README.md": "plans.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
}
INSIDE = {place: file for file, place in OUTSIDE.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)")  # the relative target in [text](target#anchor)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that lie outside of docs/."""
    for file, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(REPOSITORY / file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links relative to a file of the repository into links relative to its page."""
    place = page.file.src_uri
    return LINK.sub(lambda link: _in_site(link[1], place), markdown)


def _in_site(target: str, place: str) -> str:
    file = INSIDE.get(place, f"docs/{place}")
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(file), target))
    if wanted not in OUTSIDE and not wanted.startswith("docs/"):
        return target  # MkDocs names it as a broken link
    return posixpath.relpath(OUTSIDE.get(wanted, wanted.removeprefix("docs/")), posixpath.dirname(place) or ".")

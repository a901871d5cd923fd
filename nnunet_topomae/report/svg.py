"""Figures of matplotlib as SVG that stands inside of a page."""

from __future__ import annotations

import io
import re

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure


def inline_svg(figure: Figure, description: str) -> Markup:
    """The `<svg>` element alone, named for a screen reader; its letters are text in the page's own typeface."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    _, _, body = text.partition(">")
    (box,) = re.findall(r'viewBox="([^"]*)"', text[: text.index(">")])
    return Markup(f'<svg role="img" aria-label="{escape(description)}" viewBox="{box}">{body}')

"""Figures of matplotlib as SVG that stands inside of a page."""

from __future__ import annotations

import io
import re

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure


def inline_svg(figure: Figure, description: str) -> Markup:
    """The `<svg>` element alone, named for a screen reader; its letters and black lines are the page's own."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace("#000000", "currentColor")  # white in dark mode
    _, _, body = text.partition(">")
    (box,) = re.findall(r'viewBox="([^"]*)"', text[: text.index(">")])
    return Markup(f'<svg role="img" aria-label="{escape(description)}" viewBox="{box}">{body}')

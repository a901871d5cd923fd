"""Figures of matplotlib as pictures that stand inside of a page."""

from __future__ import annotations

import base64
import io

from markupsafe import Markup
from matplotlib.figure import Figure

DPI = 150  # twice what is shown


def embedded(figure: Figure, description: str) -> Markup:
    """An `<img>` that holds the figure as PNG; the description is for who does not see it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width = round(figure.get_size_inches()[0] * DPI / 2)
    return Markup('<img alt="{}" width="{}" src="data:image/png;base64,{}">').format(description, width, data)

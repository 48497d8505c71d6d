"""Figures as inline SVG that uses the colours of the page, in light and dark mode."""

import re
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from cxr.plots.figure import COLOURS, GREY

# Colours as variables of the page's style sheet; black becomes the page's text colour.
VARIABLES = {
    "#000000": "currentColor",
    "#ffffff": "var(--surface)",
    "#b0b0b0": "var(--rule)",
    "#cccccc": "var(--rule)",
    GREY: "var(--quiet)",
    **{colour.lower(): f"var(--series-{i})" for i, colour in enumerate(COLOURS)},
}
COLOUR = re.compile("#[0-9a-f]{6}")
IDS = re.compile(r'(\bid="|url\(#|href="#)')  # definitions of and references to ids
OPENING = re.compile(r'<svg[^>]*?viewBox="([\d. ]+)"[^>]*>', re.DOTALL)


def inline(draw: Callable[[Path], None], name: str, described: str) -> str:
    """The SVG file that `draw` writes, as an element of an HTML page.

    Parameters
    ----------
    draw : writes the figure to the given path.
    name : unique within the page; the prefix of all ids in the figure.
    described : text alternative for screen readers.
    """
    # Text stays text, so it can be searched and read aloud; ids are deterministic.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    with tempfile.TemporaryDirectory() as folder, rc_context(settings):
        path = Path(folder, f"{name}.svg")
        draw(path)
        drawn = path.read_text(encoding="utf-8")
    opening = OPENING.search(drawn)
    if opening is None:
        raise RuntimeError(f"{name} was not drawn as SVG")
    head = f'<svg viewBox="{opening[1]}" role="img" aria-label="{escape(described)}">'
    body = IDS.sub(rf"\g<1>{name}-", drawn[opening.end() :])
    return head + COLOUR.sub(lambda match: VARIABLES.get(match[0], match[0]), body)

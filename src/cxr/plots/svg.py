"""Figures as SVG that stands in a page and takes its colours from it, be it light or dark."""

import re
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from cxr.plots.figure import COLOURS, GREY

# Colours as the page's style names them; black is the page's own colour of text.
VARIABLES = {
    "#000000": "currentColor",
    "#ffffff": "var(--surface)",
    "#b0b0b0": "var(--rule)",
    "#cccccc": "var(--rule)",
    GREY: "var(--quiet)",
    **{colour.lower(): f"var(--series-{i})" for i, colour in enumerate(COLOURS)},
}
COLOUR = re.compile("#[0-9a-f]{6}")
IDS = re.compile(r'(\bid="|url\(#|href="#)')  # where one is given, and where it is meant
OPENING = re.compile(r'<svg[^>]*?viewBox="([\d. ]+)"[^>]*>', re.DOTALL)


def inline(draw: Callable[[Path], None], name: str, described: str) -> str:
    """What `draw` writes to the path that it is given, as an element of a page.

    Parameters
    ----------
    name : unlike that of every other figure of the page: all ids in it begin so.
    described : for people who don't see it.
    """
    # Text stays text, which can be searched and read aloud; ids are the same every time.
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
    return head + COLOUR.sub(lambda found: VARIABLES.get(found[0], found[0]), body)

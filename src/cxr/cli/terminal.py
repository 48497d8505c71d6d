"""The console that answers are printed to, at a terminal, in a pipe and with `NO_COLOR`."""

import os
import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cxr.errors import shown


class PlainConsole(Console):
    """Escapes unprintable characters, since names from files and stores may have any text."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render as rich does, but escape all text between rich's own codes and newlines."""
        for each in super().render(renderable, options):
            lines = each.text.split("\n")
            text = each.text if each.control else "\n".join(map(shown, lines))
            yield Segment(text, each.style, each.control)


def is_plain() -> bool:
    """Whether to print without colours."""
    is_dumb = os.environ.get("TERM") == "dumb"
    return is_dumb or bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()


console = PlainConsole(
    # Lines in a file or a pipe are not wrapped.
    width=None if sys.stdout.isatty() else 10_000,
    highlight=False,
    # With NO_COLOR rich alone would keep bold and dim.
    color_system=None if is_plain() else "auto",
)

"""Where answers are printed: what a terminal, a pipe and `NO_COLOR` get."""

import os
import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cxr.errors import shown


class PlainConsole(Console):
    """Shows what is not printable in a name as its escape: files and stores may hold any text."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """As rich renders it, the text between its own marks and line ends made harmless."""
        for each in super().render(renderable, options):
            lines = each.text.split("\n")
            text = each.text if each.control else "\n".join(map(shown, lines))
            yield Segment(text, each.style, each.control)


def is_plain() -> bool:
    """Whether nobody looks at a terminal with colours."""
    is_dumb = os.environ.get("TERM") == "dumb"
    return is_dumb or bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()


console = PlainConsole(
    # A file or a pipe has no width to cut or wrap lines to.
    width=None if sys.stdout.isatty() else 10_000,
    highlight=False,
    # rich's own way with NO_COLOR leaves bold and dim.
    color_system=None if is_plain() else "auto",
)

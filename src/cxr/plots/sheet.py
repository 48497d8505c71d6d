"""Sheets of pictures with captions, drawn with Pillow, since matplotlib takes 0.1 s per picture."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cxr.data.splits import Origin
from cxr.plots.figure import GREY, data_line

Rgb = npt.NDArray[np.uint8]  # (H, W, 3)

PANEL, CAPTION, GAP, MARGIN = 150, 54, 8, 14  # pixels
MIN_WIDTH = 524  # of a sheet, for its title, scales and note
HEAD, FOOT, BAR = 46, 66, 210  # heights of the title and the scales, width of a colour bar
TEXT, TITLE, LINE_GAP = 10.5, 15, 2  # font sizes, and space between lines, in pixels
COMPRESSION = 3  # of PNG; 6, the default, takes twice the time for files 10% smaller
FONT = "fonts/ttf/DejaVuSans.ttf"  # in matplotlib's data, as in all other figures


@dataclass(frozen=True)
class Panel:
    """A picture of PANEL x PANEL pixels, and the caption above it."""

    picture: Rgb
    caption: str
    colour: str = "black"


Rows = list[list[Panel | None]]


@dataclass(frozen=True)
class Bar:
    """A colour scale."""

    colours: npt.NDArray[np.generic]  # (256, 3) on the scale 0..255, lowest to highest
    low: float
    high: float
    label: str

    @property
    def caption(self) -> str:
        return f"{self.low:.2g} to {self.high:.2g}: {self.label}"


@dataclass(frozen=True)
class Text:
    """A text at its position in pixels; `anchor` as in Pillow."""

    x: float
    y: float
    text: str
    anchor: str
    size: float = TEXT
    colour: str = "black"

    @property
    def align(self) -> str:
        return "center" if self.anchor.startswith("m") else "left"

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the drawn text."""
        draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        return draw.multiline_textbbox(
            (self.x, self.y), self.text, _font(self.size), self.anchor, LINE_GAP, self.align
        )

    def draw(self, draw: ImageDraw.ImageDraw) -> None:
        """Draw the text."""
        draw.multiline_text(
            (self.x, self.y), self.text, self.colour, _font(self.size), self.anchor, LINE_GAP,
            self.align,
        )  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """Rows of panels below a title, above colour bars and a note."""

    title: str
    origin: Origin
    rows: Rows
    bars: list[Bar] = field(default_factory=list)
    note: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        widest = max(len(row) for row in self.rows)
        width = max(MIN_WIDTH, widest * (PANEL + GAP) - GAP + 2 * MARGIN)
        return width, HEAD + len(self.rows) * (PANEL + CAPTION + GAP) + FOOT

    def panels(self) -> Iterator[tuple[int, int, Panel]]:
        """Left and top of each panel's picture, row by row."""
        for i, row in enumerate(self.rows):
            for j, panel in enumerate(row):
                if panel is not None:
                    top = HEAD + i * (PANEL + CAPTION + GAP) + CAPTION
                    yield MARGIN + j * (PANEL + GAP), top, panel

    def texts(self) -> Iterator[Text]:
        """The title, the captions, the labels of the colour bars and the note."""
        width, height = self.size
        title = f"{self.title}\n{data_line(self.origin)}"
        yield Text(width / 2, 6, title, "ma", TITLE)
        for left, top, panel in self.panels():
            yield Text(left, top - 3, panel.caption, "ld", colour=panel.colour)
        for left, top, bar in self._bars():
            yield Text(left, top + 14, bar.caption, "la")
        if self.note:
            yield Text(MARGIN, height - 8, self.note, "ld", colour=GREY)

    def save(self, path: Path) -> None:
        """Draw the sheet into a PNG file."""
        width, height = self.size
        canvas = np.full((height, width, 3), 255, np.uint8)
        for left, top, panel in self.panels():
            canvas[top : top + PANEL, left : left + PANEL] = panel.picture
        for left, top, bar in self._bars():
            canvas[top : top + 10, left : left + BAR] = bar.colours[
                np.linspace(0, 255, BAR).astype(int)
            ]
        image = Image.fromarray(canvas)
        draw = ImageDraw.Draw(image)
        for text in self.texts():
            text.draw(draw)
        image.save(path, compress_level=COMPRESSION)

    def _bars(self) -> Iterator[tuple[int, int, Bar]]:
        for i, bar in enumerate(self.bars):
            yield MARGIN + i * (BAR + 2 * MARGIN), self.size[1] - FOOT + 8, bar


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), FONT)), size)

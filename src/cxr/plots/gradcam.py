"""Sheets of heat maps: panels in rows, each a map over its image, all on one stated scale."""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from cxr.arrays import Doubles
from cxr.cam import Method
from cxr.data.splits import Origin
from cxr.labels import LABELS
from cxr.plots.figure import COLOURS, DPI, GREY, finish

Grey = npt.NDArray[np.uint8]  # (H, W)
Rgb = npt.NDArray[np.uint8]  # (PANEL, PANEL, 3)
Evidence = npt.NDArray[np.float32]

PANEL, CAPTION, GAP, MARGIN = 150, 54, 8, 14  # pixels
NARROWEST = 480  # of a sheet: its title and notice need so much
HEAD, FOOT, BAR = 46, 66, 210  # the title, and the scales below
WORDS = 7.5  # points
LINE = 30  # letters over a panel
OPAQUE = 0.8  # of the strongest evidence
SHEET_COLUMNS, SIDE_COLUMNS = 3, 2  # labels beside each other
NAMES: dict[Method, str] = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "rollout": "attention rollout",
}
UNITS: dict[Method, str] = dict.fromkeys(NAMES, "logit")
UNITS["rollout"] = "attention"
LEGEND = "Left: map over the image. Right: raw evidence on the network's own grid"
SIGNS = ", red for the label, blue against it"
NOTICE = "yes / no: the data's label. p: the model's probability. Not a medical device."


@dataclass(frozen=True)
class Shot:
    """An image of the data."""

    name: str  # as in "test image 5"
    grey: Grey
    truth: npt.NDArray[np.uint8]  # (L,) of 0 and 1


@dataclass(frozen=True)
class Opinion:
    """What one model says of one image, and where it sees it."""

    model: str
    method: Method
    probs: Doubles  # (L,)
    thresholds: Doubles  # (L,), NaN where there is none
    evidence: Evidence  # (L, h, w), signed

    @property
    def scale(self) -> float:
        """The strongest evidence of all labels, for or against: what full colour stands for."""
        return float(np.abs(self.evidence).max()) or 1.0

    def says(self, label: int) -> str:
        cut = self.thresholds[label]
        return f"p = {self.probs[label]:.3f}, " + (
            "no threshold" if np.isnan(cut) else f"cut {cut:.3f}"
        )

    def finds(self, label: int) -> str:
        highest = float(self.evidence[label].max())
        return "no positive evidence" if highest <= 0 else f"up to {highest:+.2g}"


@dataclass(frozen=True)
class _Panel:
    picture: Rgb
    caption: str
    colour: str = "black"


Rows = list[list[_Panel | None]]


@dataclass(frozen=True)
class _Bar:
    colours: str
    low: float
    high: float
    label: str


def sheet(shot: Shot, opinion: Opinion, labels: Iterable[int], origin: Origin, path: Path) -> None:
    """One model, one image: for each label the map over it beside the raw evidence.

    All labels share one scale, so that a strong map looks stronger than a weak one.
    """
    blocks: Rows = [[_image(shot), None]]
    blocks += [list(_pair(shot, opinion, label)) for label in labels]
    rows = _in_columns(blocks, SHEET_COLUMNS)
    title = f"{NAMES[opinion.method]}: {opinion.model}, {shot.name}"
    signs = "" if opinion.method == "rollout" else SIGNS  # it knows no label and is never negative
    _draw(rows, title, _bars(opinion), f"{LEGEND}{signs}. {NOTICE}", origin, path)


def slide(shot: Shot, opinion: Opinion, label: int, origin: Origin, path: Path) -> None:
    """One label of a sheet by itself, on the scale of all."""
    rows: Rows = [[_image(shot), *_pair(shot, opinion, label)]]
    _draw(rows, f"{opinion.model}, {shot.name}", _bars(opinion), "", origin, path)


def side_by_side(
    shot: Shot, opinions: list[Opinion], labels: Iterable[int], origin: Origin, path: Path
) -> None:
    """One image, a row a label: every model's map, each model on a scale of its own."""
    rows: Rows = []
    for label in labels:
        truth = bool(shot.truth[label])
        row: list[_Panel | None] = [
            _Panel(_enlarged(shot.grey), f"{LABELS[label]}\n{_yes(truth)}", _colour(truth))
        ]
        for each in opinions:
            caption = f"{each.model}\n{each.says(label)}\n{each.finds(label)}"
            row.append(_Panel(overlay(shot.grey, each.evidence[label], each.scale), caption))
        rows.append(row)
    title = f"{', '.join(each.model for each in opinions)}: {shot.name}"
    scales = ", ".join(f"{each.model} {each.scale:.2g} ({UNITS[each.method]})" for each in opinions)
    words = f"Full colour is the strongest evidence of each for any label: {scales}.\n{NOTICE}"
    _draw(_in_columns(rows, SIDE_COLUMNS), title, [], words, origin, path)


def examples(
    label: int, groups: dict[str, list[tuple[Shot, Opinion]]], origin: Origin, path: Path
) -> None:
    """One model, one label: a row for each group of images, the image beside the map over it.

    The groups' maps share a scale. A group may be empty.
    """
    opinions = [opinion for group in groups.values() for _, opinion in group]
    scale = max((float(np.abs(each.evidence[label]).max()) for each in opinions), default=0) or 1.0
    widest = max(len(group) for group in groups.values())
    rows: Rows = []
    for name, group in groups.items():
        row: list[_Panel | None] = []
        for shot, opinion in group:
            row += [
                _Panel(_enlarged(shot.grey), f"{name}\n{shot.name}\n{_findings(shot)}"),
                _Panel(
                    overlay(shot.grey, opinion.evidence[label], scale),
                    f"{opinion.says(label)}\n{opinion.finds(label)}",
                ),
            ]
        if not group:
            row = [_Panel(np.full((PANEL, PANEL, 3), 255, np.uint8), f"{name}: none", GREY)]
        rows.append(row + [None] * (2 * widest - len(row)))
    first = opinions[0]
    title = f"{NAMES[first.method]}: {first.model}, {LABELS[label]}"
    _draw(rows, title, [_heat(scale, first.method)], NOTICE, origin, path)


def overlay(grey: Grey, evidence: Evidence, scale: float) -> Rgb:
    """Positive evidence (h, w) over an image, smooth; the image as it is where there is none."""
    share = np.maximum(evidence, 0) / scale
    smooth = Image.fromarray(share).resize((PANEL, PANEL), Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(smooth, np.float64), 0, 1)
    colours = np.asarray(colormaps["inferno"](heat), np.float64)[..., :3] * 255
    opacity = OPAQUE * np.sqrt(heat)[..., None]
    blend: Rgb = np.rint((1 - opacity) * _enlarged(grey) + opacity * colours).astype(np.uint8)
    return blend


def raw(evidence: Evidence, scale: float) -> Rgb:
    """Evidence (h, w) on its own grid: red for the label, blue against it."""
    colours = colormaps["RdBu_r"](Normalize(-scale, scale)(evidence), bytes=True)[..., :3]
    cells = Image.fromarray(np.ascontiguousarray(colours))
    return np.asarray(cells.resize((PANEL, PANEL), Image.Resampling.NEAREST), np.uint8)


def _heat(scale: float, method: Method) -> _Bar:
    return _Bar("inferno", 0, scale, f"evidence for it ({UNITS[method]})")


def _bars(opinion: Opinion) -> list[_Bar]:
    label = f"raw evidence ({UNITS[opinion.method]})"
    raw_bar = _Bar("RdBu_r", -opinion.scale, opinion.scale, label)
    return [_heat(opinion.scale, opinion.method), raw_bar]


def _pair(shot: Shot, opinion: Opinion, label: int) -> tuple[_Panel, _Panel]:
    truth, evidence = bool(shot.truth[label]), opinion.evidence[label]
    return (
        _Panel(
            overlay(shot.grey, evidence, opinion.scale),
            f"{LABELS[label]}: {_yes(truth)}\n{opinion.says(label)}",
            _colour(truth),
        ),
        _Panel(
            raw(evidence, opinion.scale),
            f"{LABELS[label]}, raw\n{opinion.finds(label)}",
            _colour(truth),
        ),
    )


def _image(shot: Shot) -> _Panel:
    return _Panel(_enlarged(shot.grey), f"the image\n{_findings(shot)}")


def _enlarged(grey: Grey) -> Rgb:
    """A small image's own pixels: no smoothing invents what lies between them."""
    how = Image.Resampling.NEAREST if len(grey) <= PANEL else Image.Resampling.BICUBIC
    shown = Image.fromarray(grey).resize((PANEL, PANEL), how)
    return np.repeat(np.asarray(shown)[..., None], 3, axis=2)


def _findings(shot: Shot) -> str:
    present = [label for label, y in zip(LABELS, shot.truth, strict=True) if y]
    words = ", ".join(present) or "no finding"
    return textwrap.fill(words, LINE, max_lines=2, placeholder=", …")


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _colour(truth: bool) -> str:
    return COLOURS[1] if truth else "black"


def _in_columns(blocks: Rows, n_columns: int) -> Rows:
    """Blocks of panels as one reads a page; all rows are as wide, whatever there is."""
    width = n_columns * len(blocks[0])
    parts = [blocks[i : i + n_columns] for i in range(0, len(blocks), n_columns)]
    rows = [list(chain.from_iterable(part)) for part in parts]
    return [row + [None] * (width - len(row)) for row in rows]


def _draw(rows: Rows, title: str, bars: list[_Bar], words: str, origin: Origin, path: Path) -> None:
    """Panels as one picture with words on it: an axes for each would take most of the time."""
    step_x, step_y = PANEL + GAP, PANEL + CAPTION + GAP
    width = max(NARROWEST, max(len(row) for row in rows) * step_x - GAP + 2 * MARGIN)
    height = HEAD + len(rows) * step_y + FOOT
    canvas = np.full((height, width, 3), 255, np.uint8)
    # Half a pixel more, since matplotlib cuts what is left of a division.
    figure = Figure(figsize=((width + 0.5) / DPI, (height + 0.5) / DPI), dpi=DPI)
    for left, top, panel in _placed(rows, step_x, step_y):
        canvas[top : top + PANEL, left : left + PANEL] = panel.picture
        figure.text(
            left / width, 1 - (top - 3) / height, panel.caption,
            fontsize=WORDS, color=panel.colour, va="bottom", linespacing=1.15,
        )  # fmt: skip
    for i, bar in enumerate(bars):
        left, top = MARGIN + i * (BAR + 2 * MARGIN), height - FOOT + 8
        strip = colormaps[bar.colours](np.linspace(0, 1, BAR), bytes=True)[:, :3]
        canvas[top : top + 10, left : left + BAR] = strip
        label = f"{bar.low:.2g} to {bar.high:.2g}: {bar.label}"
        figure.text(left / width, 1 - (top + 14) / height, label, fontsize=WORDS, va="top")
    figure.figimage(canvas, zorder=-1)
    figure.text(MARGIN / width, 8 / height, words, fontsize=WORDS, color=GREY, va="bottom")
    finish(figure, title, origin, path, top=1 - 6 / height)


def _placed(rows: Rows, step_x: int, step_y: int) -> Iterator[tuple[int, int, _Panel]]:
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            if panel is not None:
                yield MARGIN + j * step_x, HEAD + i * step_y + CAPTION, panel

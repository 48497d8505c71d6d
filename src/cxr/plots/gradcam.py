"""Sheets of heat maps: rows of panels with maps over their images, on one scale per model."""

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
Attribution = npt.NDArray[np.float32]

PANEL, CAPTION, GAP, MARGIN = 150, 54, 8, 14  # pixels
MIN_WIDTH = 480  # of a sheet, for its title and notice
HEAD, FOOT, BAR = 46, 66, 210  # heights of the title and the scales, width of a colour bar
FONT_SIZE = 7.5  # points
LINE = 30  # characters that fit over a panel
MAX_OPACITY = 0.8  # at the strongest attribution
SHEET_COLUMNS, SIDE_COLUMNS = 3, 2  # labels per row
NAMES: dict[Method, str] = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "rollout": "Attention rollout",
}
UNITS: dict[Method, str] = dict.fromkeys(NAMES, "logit")
UNITS["rollout"] = "attention"
LEGEND = "Left: positive attribution over the image. Right: raw attribution"
SIGNS = " (red: for the label, blue: against it)"
NOTICE = "yes/no: true label. p: predicted probability. Not a medical device."


@dataclass(frozen=True)
class ImageCase:
    """An image of the data."""

    name: str  # as in "test image 5"
    grey: Grey
    truth: npt.NDArray[np.uint8]  # (L,) of 0 and 1


@dataclass(frozen=True)
class ModelOutput:
    """One model's output for one image: probabilities, thresholds and maps."""

    model: str
    method: Method
    probs: Doubles  # (L,)
    thresholds: Doubles  # (L,), NaN if undefined
    attribution: Attribution  # (L, h, w), signed

    @property
    def scale(self) -> float:
        """The largest absolute attribution over all labels, shown in full colour."""
        return float(np.abs(self.attribution).max()) or 1.0

    def probability_caption(self, label: int) -> str:
        threshold = self.thresholds[label]
        return f"p = {self.probs[label]:.3f}, " + (
            "no threshold" if np.isnan(threshold) else f"threshold {threshold:.3f}"
        )

    def attribution_caption(self, label: int) -> str:
        highest = float(self.attribution[label].max())
        return "no positive attribution" if highest <= 0 else f"maximum {highest:+.2g}"


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


def sheet(
    case: ImageCase, output: ModelOutput, labels: Iterable[int], origin: Origin, path: Path
) -> None:
    """One model and one image: for each label, the map over the image and the raw attribution.

    All labels share one scale, so that maps can be compared.
    """
    blocks: Rows = [[_image(case), None]]
    blocks += [list(_pair(case, output, label)) for label in labels]
    rows = _in_columns(blocks, SHEET_COLUMNS)
    title = f"{NAMES[output.method]}: {output.model}, {case.name}"
    signs = "" if output.method == "rollout" else SIGNS  # rollout is never negative
    _draw(rows, title, _bars(output), f"{LEGEND}{signs}. {NOTICE}", origin, path)


def slide(case: ImageCase, output: ModelOutput, label: int, origin: Origin, path: Path) -> None:
    """One label of a sheet, on the scale of all labels."""
    rows: Rows = [[_image(case), *_pair(case, output, label)]]
    _draw(rows, f"{output.model}, {case.name}", _bars(output), "", origin, path)


def side_by_side(
    case: ImageCase, outputs: list[ModelOutput], labels: Iterable[int], origin: Origin, path: Path
) -> None:
    """One image, one row per label: every model's map, each model on its own scale."""
    rows: Rows = []
    for label in labels:
        truth = bool(case.truth[label])
        row: list[_Panel | None] = [
            _Panel(_enlarged(case.grey), f"{LABELS[label]}\n{_yes(truth)}", _colour(truth))
        ]
        for output in outputs:
            caption = (
                f"{output.model}\n{output.probability_caption(label)}\n"
                f"{output.attribution_caption(label)}"
            )
            picture = overlay(case.grey, output.attribution[label], output.scale)
            row.append(_Panel(picture, caption))
        rows.append(row)
    title = f"{', '.join(output.model for output in outputs)}: {case.name}"
    scales = ", ".join(f"{each.model} {each.scale:.2g} ({UNITS[each.method]})" for each in outputs)
    note = f"Full colour: each model's strongest attribution for any label: {scales}.\n{NOTICE}"
    _draw(_in_columns(rows, SIDE_COLUMNS), title, [], note, origin, path)


def examples(
    label: int, groups: dict[str, list[tuple[ImageCase, ModelOutput]]], origin: Origin, path: Path
) -> None:
    """One model and one label: one row per group of images, each image next to its map.

    All groups share one scale. A group may be empty.
    """
    outputs = [output for group in groups.values() for _, output in group]
    scale = (
        max((float(np.abs(output.attribution[label]).max()) for output in outputs), default=0)
        or 1.0
    )
    widest = max(len(group) for group in groups.values())
    rows: Rows = []
    for name, group in groups.items():
        row: list[_Panel | None] = []
        for case, output in group:
            row += [
                _Panel(_enlarged(case.grey), f"{name}\n{case.name}\n{_findings(case)}"),
                _Panel(
                    overlay(case.grey, output.attribution[label], scale),
                    f"{output.probability_caption(label)}\n{output.attribution_caption(label)}",
                ),
            ]
        if not group:
            row = [_Panel(np.full((PANEL, PANEL, 3), 255, np.uint8), f"{name}: none", GREY)]
        rows.append(row + [None] * (2 * widest - len(row)))
    first = outputs[0]
    title = f"{NAMES[first.method]}: {first.model}, {LABELS[label]}"
    _draw(rows, title, [_heat(scale, first.method)], NOTICE, origin, path)


def overlay(grey: Grey, attribution: Attribution, scale: float) -> Rgb:
    """Positive attribution (h, w), smoothed, over an image; the image is unchanged elsewhere."""
    share = np.maximum(attribution, 0) / scale
    smooth = Image.fromarray(share).resize((PANEL, PANEL), Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(smooth, np.float64), 0, 1)
    colours = np.asarray(colormaps["inferno"](heat), np.float64)[..., :3] * 255
    opacity = MAX_OPACITY * np.sqrt(heat)[..., None]
    blend: Rgb = np.rint((1 - opacity) * _enlarged(grey) + opacity * colours).astype(np.uint8)
    return blend


def raw(attribution: Attribution, scale: float) -> Rgb:
    """Attribution (h, w) on its own grid: red for the label, blue against it."""
    colours = colormaps["RdBu_r"](Normalize(-scale, scale)(attribution), bytes=True)[..., :3]
    cells = Image.fromarray(np.ascontiguousarray(colours))
    return np.asarray(cells.resize((PANEL, PANEL), Image.Resampling.NEAREST), np.uint8)


def _heat(scale: float, method: Method) -> _Bar:
    return _Bar("inferno", 0, scale, f"positive attribution ({UNITS[method]})")


def _bars(output: ModelOutput) -> list[_Bar]:
    label = f"raw attribution ({UNITS[output.method]})"
    raw_bar = _Bar("RdBu_r", -output.scale, output.scale, label)
    return [_heat(output.scale, output.method), raw_bar]


def _pair(case: ImageCase, output: ModelOutput, label: int) -> tuple[_Panel, _Panel]:
    truth, attribution = bool(case.truth[label]), output.attribution[label]
    return (
        _Panel(
            overlay(case.grey, attribution, output.scale),
            f"{LABELS[label]}: {_yes(truth)}\n{output.probability_caption(label)}",
            _colour(truth),
        ),
        _Panel(
            raw(attribution, output.scale),
            f"{LABELS[label]}, raw\n{output.attribution_caption(label)}",
            _colour(truth),
        ),
    )


def _image(case: ImageCase) -> _Panel:
    return _Panel(_enlarged(case.grey), f"Image\n{_findings(case)}")


def _enlarged(grey: Grey) -> Rgb:
    """The image at panel size; small images keep their pixels without interpolation."""
    resampling = Image.Resampling.NEAREST if len(grey) <= PANEL else Image.Resampling.BICUBIC
    resized = Image.fromarray(grey).resize((PANEL, PANEL), resampling)
    return np.repeat(np.asarray(resized)[..., None], 3, axis=2)


def _findings(case: ImageCase) -> str:
    present = [label for label, y in zip(LABELS, case.truth, strict=True) if y]
    findings = ", ".join(present) or "no finding"
    return textwrap.fill(findings, LINE, max_lines=2, placeholder=" …")


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _colour(truth: bool) -> str:
    return COLOURS[1] if truth else "black"


def _in_columns(blocks: Rows, n_columns: int) -> Rows:
    """Arrange blocks of panels row by row; all rows are padded to the same width."""
    width = n_columns * len(blocks[0])
    parts = [blocks[i : i + n_columns] for i in range(0, len(blocks), n_columns)]
    rows = [list(chain.from_iterable(part)) for part in parts]
    return [row + [None] * (width - len(row)) for row in rows]


def _draw(rows: Rows, title: str, bars: list[_Bar], note: str, origin: Origin, path: Path) -> None:
    """Draw all panels as one image with captions; one axes per panel would be much slower."""
    step_x, step_y = PANEL + GAP, PANEL + CAPTION + GAP
    width = max(MIN_WIDTH, max(len(row) for row in rows) * step_x - GAP + 2 * MARGIN)
    height = HEAD + len(rows) * step_y + FOOT
    canvas = np.full((height, width, 3), 255, np.uint8)
    # Half a pixel more, because matplotlib truncates the size in pixels.
    figure = Figure(figsize=((width + 0.5) / DPI, (height + 0.5) / DPI), dpi=DPI)
    for left, top, panel in _placed(rows, step_x, step_y):
        canvas[top : top + PANEL, left : left + PANEL] = panel.picture
        figure.text(
            left / width, 1 - (top - 3) / height, panel.caption,
            fontsize=FONT_SIZE, color=panel.colour, va="bottom", linespacing=1.15,
        )  # fmt: skip
    for i, bar in enumerate(bars):
        left, top = MARGIN + i * (BAR + 2 * MARGIN), height - FOOT + 8
        strip = colormaps[bar.colours](np.linspace(0, 1, BAR), bytes=True)[:, :3]
        canvas[top : top + 10, left : left + BAR] = strip
        label = f"{bar.low:.2g} to {bar.high:.2g}: {bar.label}"
        figure.text(left / width, 1 - (top + 14) / height, label, fontsize=FONT_SIZE, va="top")
    figure.figimage(canvas, zorder=-1)
    figure.text(MARGIN / width, 8 / height, note, fontsize=FONT_SIZE, color=GREY, va="bottom")
    finish(figure, title, origin, path, top=1 - 6 / height)


def _placed(rows: Rows, step_x: int, step_y: int) -> Iterator[tuple[int, int, _Panel]]:
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            if panel is not None:
                yield MARGIN + j * step_x, HEAD + i * step_y + CAPTION, panel

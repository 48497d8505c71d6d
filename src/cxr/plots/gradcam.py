"""Sheets of heat maps: maps over their images, on one scale per model."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from cxr.arrays import Doubles, Labels
from cxr.data.splits import Origin, Split
from cxr.labels import UNKNOWN
from cxr.params import Method
from cxr.plots.figure import COLOURS, GREY, short
from cxr.plots.sheet import PANEL, Bar, Panel, Rgb, Rows, Sheet

Grey = npt.NDArray[np.uint8]  # (H, W)
Attribution = npt.NDArray[np.float32]

# Tables of 256 colours on the scale 0..255; the first is blended with the image before rounding.
HEAT = (255 * colormaps["inferno"](np.arange(256))[:, :3]).astype(np.float32)
SIGNED = colormaps["RdBu_r"](np.arange(256), bytes=True)[:, :3]
LINE = 30  # characters that fit over a panel
MAX_OPACITY = 0.8  # at the strongest attribution
MAX_ERRORS = 3  # confident errors shown per image with `labels: findings`
SHEET_COLUMNS, SIDE_COLUMNS = 3, 2  # labels per row
NAMES: dict[Method, str] = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "rollout": "Attention rollout",
}
ANSWERS = {1: "yes", 0: "no", UNKNOWN: "unknown"}
UNITS: dict[Method, str] = dict.fromkeys(NAMES, "logit")
UNITS["rollout"] = "attention"
LEGEND = "Left: positive attribution over the image. Right: raw attribution"
SIGNS = " (red: for the label, blue: against it)"
NOTICE = "yes/no/unknown: true label. p: predicted probability. Not a medical device."


@dataclass(frozen=True)
class ImageCase:
    """An image of the data."""

    name: str  # as in "test image 5"
    grey: Grey
    truth: Labels  # (L,)
    labels: tuple[str, ...]  # (L,), their names

    def truth_of(self, label: int) -> str:
        """The true label in words."""
        return ANSWERS[int(self.truth[label])]

    def colour_of(self, label: int) -> str:
        """The colour of captions on a label: coloured if the image has the finding."""
        return COLOURS[1] if self.truth[label] == 1 else "black"

    def findings(self) -> str:
        """The labels that the image has."""
        present = [name for name, y in zip(self.labels, self.truth, strict=True) if y == 1]
        none = "no finding" if (self.truth == 0).all() else "no known finding"
        findings = ", ".join(map(short, present)) or none
        return textwrap.fill(findings, LINE, max_lines=2, placeholder=" …")


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


def image_case(split: Split, name: str, index: int) -> ImageCase:
    """An image of a split, by its index."""
    grey, truth = np.array(split.images[index]), np.array(split.labels[index])
    return ImageCase(f"{name} image {index}", grey, truth, split.names)


def labels_shown(case: ImageCase, outputs: list[ModelOutput], which: str) -> list[int]:
    """All labels; or true labels and the false positives furthest above their thresholds.

    If there are none of these, the label closest to its threshold.

    Parameters
    ----------
    which : `gradcam.labels` in params.yaml, `all` or `findings`.
    """
    if which == "all":
        return list(range(len(case.labels)))
    ratios = np.max([output.probs / output.thresholds for output in outputs], axis=0)
    ratios = np.nan_to_num(ratios, nan=-1)  # no predicted positives without a threshold
    highest = np.argsort(-ratios, kind="stable").tolist()
    false_positives = [i for i in highest if case.truth[i] == 0 and ratios[i] >= 1]
    present = np.flatnonzero(case.truth == 1).tolist()
    return sorted({*present, *false_positives[:MAX_ERRORS]}) or highest[:1]


def pairs(case: ImageCase, output: ModelOutput, labels: Iterable[int]) -> dict[int, list[Panel]]:
    """For each label, the map over the image and the raw attribution.

    All labels share one scale, so that maps can be compared.
    """
    return {label: _pair(case, output, label) for label in labels}


def sheet(
    case: ImageCase, output: ModelOutput, panels: dict[int, list[Panel]], origin: Origin
) -> Sheet:
    """One model and one image: the image, and the pair of panels of each label."""
    blocks: Rows = [[_image(case), None], *(list[Panel | None](pair) for pair in panels.values())]
    rows = _in_columns(blocks, SHEET_COLUMNS)
    title = f"{NAMES[output.method]}: {output.model}, {case.name}"
    signs = "" if output.method == "rollout" else SIGNS  # rollout is never negative
    return Sheet(title, origin, rows, _bars(output), f"{LEGEND}{signs}. {NOTICE}")


def slide(case: ImageCase, output: ModelOutput, pair: list[Panel], origin: Origin) -> Sheet:
    """One label of a sheet, on the scale of all labels."""
    rows: Rows = [[_image(case), *pair]]
    return Sheet(f"{output.model}, {case.name}", origin, rows, _bars(output))


def side_by_side(
    case: ImageCase, outputs: list[ModelOutput], labels: Iterable[int], origin: Origin
) -> Sheet:
    """One image, one row per label: every model's map, each model on its own scale."""
    rows: Rows = []
    for label in labels:
        caption = f"{short(case.labels[label])}\n{case.truth_of(label)}"
        row: list[Panel | None] = [Panel(_enlarged(case.grey), caption, case.colour_of(label))]
        for output in outputs:
            caption = (
                f"{output.model}\n{output.probability_caption(label)}\n"
                f"{output.attribution_caption(label)}"
            )
            picture = overlay(case.grey, output.attribution[label], output.scale)
            row.append(Panel(picture, caption))
        rows.append(row)
    title = f"{', '.join(output.model for output in outputs)}: {case.name}"
    scales = ", ".join(f"{each.model} {each.scale:.2g} ({UNITS[each.method]})" for each in outputs)
    note = f"Full colour: each model's strongest attribution for any label: {scales}.\n{NOTICE}"
    return Sheet(title, origin, _in_columns(rows, SIDE_COLUMNS), note=note)


def examples(
    label: int, groups: dict[str, list[tuple[ImageCase, ModelOutput]]], origin: Origin
) -> Sheet:
    """One model and one label: one row per group of images, each image next to its map.

    All groups share one scale. A group may be empty, but not all of them.
    """
    outputs = [output for group in groups.values() for _, output in group]
    scale = (
        max((float(np.abs(output.attribution[label]).max()) for output in outputs), default=0)
        or 1.0
    )
    widest = max(len(group) for group in groups.values())
    rows: Rows = []
    for name, group in groups.items():
        row: list[Panel | None] = []
        for case, output in group:
            row += [
                Panel(_enlarged(case.grey), f"{name}\n{case.name}\n{case.findings()}"),
                Panel(
                    overlay(case.grey, output.attribution[label], scale),
                    f"{output.probability_caption(label)}\n{output.attribution_caption(label)}",
                ),
            ]
        if not group:
            row = [Panel(np.full((PANEL, PANEL, 3), 255, np.uint8), f"{name}: none", GREY)]
        rows.append(row + [None] * (2 * widest - len(row)))
    case, first = next(member for group in groups.values() for member in group)
    title = f"{NAMES[first.method]}: {first.model}, {case.labels[label]}"
    return Sheet(title, origin, rows, [_heat(scale, first.method)], NOTICE)


def overlay(grey: Grey, attribution: Attribution, scale: float) -> Rgb:
    """Positive attribution (h, w), smoothed, over an image; the image is unchanged elsewhere."""
    share = np.maximum(attribution, 0) / scale
    smooth = Image.fromarray(share).resize((PANEL, PANEL), Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(smooth, np.float32), 0, 1)
    colours = HEAT[np.minimum(heat * 256, 255).astype(np.uint8)]  # as matplotlib does
    opacity = MAX_OPACITY * np.sqrt(heat)[..., None]
    blend: Rgb = np.rint((1 - opacity) * _enlarged(grey) + opacity * colours).astype(np.uint8)
    return blend


def raw(attribution: Attribution, scale: float) -> Rgb:
    """Attribution (h, w) on its own grid: red for the label, blue against it."""
    share = (attribution / scale + 1) / 2
    cells = Image.fromarray(SIGNED[np.clip(share * 256, 0, 255).astype(np.uint8)])
    return np.asarray(cells.resize((PANEL, PANEL), Image.Resampling.NEAREST), np.uint8)


def _heat(scale: float, method: Method) -> Bar:
    return Bar(HEAT, 0, scale, f"positive attribution ({UNITS[method]})")


def _bars(output: ModelOutput) -> list[Bar]:
    label = f"raw attribution ({UNITS[output.method]})"
    raw_bar = Bar(SIGNED, -output.scale, output.scale, label)
    return [_heat(output.scale, output.method), raw_bar]


def _pair(case: ImageCase, output: ModelOutput, label: int) -> list[Panel]:
    attribution, colour = output.attribution[label], case.colour_of(label)
    name = short(case.labels[label])
    return [
        Panel(
            overlay(case.grey, attribution, output.scale),
            f"{name}: {case.truth_of(label)}\n{output.probability_caption(label)}",
            colour,
        ),
        Panel(
            raw(attribution, output.scale),
            f"{name}, raw\n{output.attribution_caption(label)}",
            colour,
        ),
    ]


def _image(case: ImageCase) -> Panel:
    return Panel(_enlarged(case.grey), f"Image\n{case.findings()}")


def _enlarged(grey: Grey) -> Rgb:
    """The image at panel size; small images keep their pixels without interpolation."""
    resampling = Image.Resampling.NEAREST if len(grey) <= PANEL else Image.Resampling.BICUBIC
    resized = Image.fromarray(grey).resize((PANEL, PANEL), resampling)
    return np.repeat(np.asarray(resized)[..., None], 3, axis=2)


def _in_columns(blocks: Rows, n_columns: int) -> Rows:
    """Arrange blocks of panels row by row; all rows are padded to the same width."""
    width = n_columns * len(blocks[0])
    parts = [blocks[i : i + n_columns] for i in range(0, len(blocks), n_columns)]
    rows = [list(chain.from_iterable(part)) for part in parts]
    return [row + [None] * (width - len(row)) for row in rows]

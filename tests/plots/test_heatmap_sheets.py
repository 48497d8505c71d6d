"""Sheets of heat maps: their colours and text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from cxr.data.splits import Origin
from cxr.labels import CHESTMNIST
from cxr.plots.gradcam import (
    ImageCase,
    ModelOutput,
    examples,
    overlay,
    pairs,
    raw,
    sheet,
    side_by_side,
    slide,
)
from cxr.plots.sheet import CAPTION, HEAD, MARGIN, PANEL, Sheet

REAL = Origin("chestmnist-28", "medmnist")
PHANTOM = Origin("phantom-28", "phantom")
EDEMA, HERNIA = CHESTMNIST.index("edema"), CHESTMNIST.index("hernia")
INFERNO, REDS_AND_BLUES = colormaps["inferno"], colormaps["RdBu_r"]


def case(index: int = 5) -> ImageCase:
    grey = np.random.default_rng(index).integers(0, 256, (28, 28), dtype=np.uint8)
    return ImageCase(f"test image {index}", grey, np.eye(14, dtype=np.int8)[EDEMA], CHESTMNIST)


def output(model: str = "cnn", cells: int = 7, largest: float = 8) -> ModelOutput:
    """Attribution up to `largest`, without positive values for the first label."""
    attribution = np.random.default_rng(cells).uniform(-1, 1, (14, cells, cells))
    attribution[0] = -0.5
    attribution[3, 2, 1] = largest
    thresholds = np.full(14, 0.25)
    thresholds[HERNIA] = np.nan
    probs = np.full(14, 0.125)
    return ModelOutput(model, "gradcam", probs, thresholds, attribution.astype(np.float32))


def sheet_of(case: ImageCase, output: ModelOutput, labels: list[int], origin: Origin) -> Sheet:
    return sheet(case, output, pairs(case, output, labels), origin)


def slide_of(case: ImageCase, output: ModelOutput, label: int, origin: Origin) -> Sheet:
    return slide(case, output, pairs(case, output, [label])[label], origin)


def captions(sheet: Sheet) -> list[str]:
    """The captions over the panels, row by row."""
    return [panel.caption for _, _, panel in sheet.panels()]


def pictures(sheet: Sheet) -> list[np.ndarray]:
    """The pictures of the panels, row by row."""
    return [panel.picture for _, _, panel in sheet.panels()]


def texts(sheet: Sheet) -> list[str]:
    return [text.text for text in sheet.texts()]


def scales(sheet: Sheet) -> list[str]:
    return [bar.caption for bar in sheet.bars]


def test_the_image_is_unchanged_without_positive_attribution() -> None:
    grey = np.arange(25, dtype=np.uint8).reshape(5, 5) * 10
    picture = overlay(grey, np.full((7, 7), -3, np.float32), 2.0)
    assert picture.shape == (PANEL, PANEL, 3)
    for row in range(5):
        for column in range(5):
            pixel = (PANEL // 5 * row + 9, PANEL // 5 * column + 9)
            assert picture[pixel].tolist() == [grey[row, column]] * 3


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_opacity_and_colour_follow_the_attribution_relative_to_the_scale(share: float) -> None:
    picture = overlay(np.full((28, 28), 100, np.uint8), np.full((3, 3), 6 * share, np.float32), 6.0)
    opacity = 0.8 * share**0.5
    colour = 255 * np.array(INFERNO(share)[:3])
    np.testing.assert_allclose(picture[70, 70], (1 - opacity) * 100 + opacity * colour, atol=0.51)
    assert (picture == picture[0, 0]).all()


def test_the_overlay_is_brightest_at_the_strongest_cell() -> None:
    attribution = np.zeros((5, 5), np.float32)
    attribution[1, 3] = 1
    picture = overlay(np.zeros((28, 28), np.uint8), attribution, 1.0).sum(axis=2)
    brightest = np.argwhere(picture == picture.max()).mean(axis=0)
    np.testing.assert_allclose(brightest, [1.5 * PANEL / 5, 3.5 * PANEL / 5], atol=1)


def test_raw_attribution_keeps_its_grid_and_sign() -> None:
    attribution = np.array([[2, -2], [0, 1]], np.float32)
    picture = raw(attribution, 2.0)
    half = PANEL // 2
    for row in range(2):
        for column in range(2):
            cell = picture[row * half : (row + 1) * half, column * half : (column + 1) * half]
            shade = 0.5 + attribution[row, column] / 4
            assert (cell == cell[0, 0]).all()
            np.testing.assert_allclose(
                cell[0, 0], 255 * np.array(REDS_AND_BLUES(shade)[:3]), atol=1
            )


def test_a_sheet_shows_all_labels_on_one_scale() -> None:
    shown = output()
    drawn = sheet_of(case(), shown, list(range(14)), REAL)
    assert captions(drawn)[0] == "Image\nedema"
    assert len(captions(drawn)) == 29
    for i, label in enumerate(CHESTMNIST):
        truth = "yes" if i == EDEMA else "no"
        threshold = "no threshold" if i == HERNIA else "threshold 0.250"
        assert captions(drawn)[1 + 2 * i] == f"{label}: {truth}\np = 0.125, {threshold}"
        assert ("no positive attribution" in captions(drawn)[2 + 2 * i]) == (i == 0)
        overlaid, plain = pictures(drawn)[1 + 2 * i : 3 + 2 * i]
        np.testing.assert_array_equal(overlaid, overlay(case().grey, shown.attribution[i], 8.0))
        np.testing.assert_array_equal(plain, raw(shown.attribution[i], 8.0))
    assert scales(drawn) == [
        "0 to 8: positive attribution (logit)",
        "-8 to 8: raw attribution (logit)",
    ]


def test_a_sheet_can_show_selected_labels() -> None:
    drawn = sheet_of(case(), output(), [3, EDEMA], REAL)
    assert [caption.splitlines()[0] for caption in captions(drawn)[1:]] == [
        f"{CHESTMNIST[3]}: no", f"{CHESTMNIST[3]}, raw", "edema: yes", "edema, raw",
    ]  # fmt: skip


def test_a_slide_shows_one_label_on_the_scale_of_all_labels() -> None:
    shown = output()
    drawn = slide_of(case(), shown, EDEMA, REAL)
    assert captions(drawn)[1] == "edema: yes\np = 0.125, threshold 0.250"
    _, overlaid, plain = pictures(drawn)
    np.testing.assert_array_equal(overlaid, overlay(case().grey, shown.attribution[EDEMA], 8.0))
    np.testing.assert_array_equal(plain, raw(shown.attribution[EDEMA], 8.0))


def test_models_are_shown_side_by_side_each_on_its_own_scale() -> None:
    outputs = [output("cnn", 7, 8), output("squeezenet", 13, 3), output("vit", 7, 2)]
    drawn = side_by_side(case(), outputs, range(14), REAL)
    assert len(captions(drawn)) == 14 * 4
    row = slice(4 * EDEMA, 4 * EDEMA + 4)
    names = [caption.splitlines()[0] for caption in captions(drawn)[row]]
    assert names == ["edema", "cnn", "squeezenet", "vit"]
    for of_model, scale, picture in zip(outputs, (8, 3, 2), pictures(drawn)[row][1:], strict=True):
        expected = overlay(case().grey, of_model.attribution[EDEMA], float(scale))
        np.testing.assert_array_equal(picture, expected)
    assert captions(drawn)[1].endswith("no positive attribution")
    assert "cnn 8 (logit), squeezenet 3 (logit), vit 2 (logit)" in drawn.note


def test_examples_have_one_row_per_group_and_name_empty_groups() -> None:
    groups = {
        "true positive": [(case(i), output("cnn", 7, i)) for i in (1, 2, 4)],
        "false positive": [(case(9), output())],
        "false negative": [],
    }
    drawn = examples(3, groups, REAL)
    assert [captions(drawn)[i] for i in (0, 2, 4, 6, 8)] == [
        "true positive\ntest image 1\nedema", "true positive\ntest image 2\nedema",
        "true positive\ntest image 4\nedema", "false positive\ntest image 9\nedema",
        "false negative: none",
    ]  # fmt: skip
    attribution = output("cnn", 7, 2).attribution[3]
    np.testing.assert_array_equal(pictures(drawn)[3], overlay(case(2).grey, attribution, 8.0))
    assert scales(drawn) == ["0 to 8: positive attribution (logit)"]
    assert f"cnn, {CHESTMNIST[3]}" in drawn.title


def test_many_findings_are_shortened_to_two_lines() -> None:
    full = ImageCase("test image 1", case().grey, np.ones(14, np.int8), CHESTMNIST)
    lines = captions(slide_of(full, output(), 0, REAL))[0].splitlines()
    assert len(lines) == 3
    assert lines[2].endswith("…")


Draw = Callable[[Origin], Sheet]
DRAWINGS: dict[str, Draw] = {
    "sheet": lambda origin: sheet_of(case(), output(), list(range(14)), origin),
    "slide": lambda origin: slide_of(case(), output(), 3, origin),
    "side by side": lambda origin: side_by_side(case(), [output(), output("vit")], [3], origin),
    "examples": lambda origin: examples(
        3, {"true positive": [(case(), output())], "false negative": []}, origin
    ),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_sheet_names_its_model_and_data(draw: Draw) -> None:
    real, phantom = (texts(draw(origin))[0].splitlines() for origin in (REAL, PHANTOM))
    assert "cnn" in real[0]
    assert real[1] == "data: chestmnist-28"
    assert phantom[1] == "PHANTOM: synthetic images, no patients (phantom-28)"


FULL = ImageCase("train image 78467", case().grey, np.ones(14, np.int8), CHESTMNIST)
LONG_NAME = "Verbreiterung des oberen Mediastinums nach links"
LONG = replace(FULL, labels=tuple(f"{LONG_NAME}, {i}" for i in range(14)))
WIDE = replace(output("squeezenet", 13, 123456.789), method="rollout", probs=np.full(14, 0.999))
WIDEST: dict[str, Draw] = {
    "sheet": lambda origin: sheet_of(FULL, WIDE, [3], origin),
    "sheet with signs": lambda origin: sheet_of(
        FULL, replace(WIDE, method="gradcam++"), [3], origin
    ),
    "slide": lambda origin: slide_of(FULL, WIDE, HERNIA, origin),
    "side by side": lambda origin: side_by_side(FULL, [WIDE] * 3, [3], origin),
    "sheet with long names": lambda origin: sheet_of(LONG, WIDE, [3, 4, 5], origin),
    "slide with a long name": lambda origin: slide_of(LONG, WIDE, HERNIA, origin),
    "side by side with long names": lambda origin: side_by_side(LONG, [WIDE] * 3, [3, 4], origin),
    "examples of one": lambda origin: examples(
        3, {"false positive": [(FULL, WIDE)], "false negative": []}, origin
    ),
    "examples": lambda origin: examples(3, {"false negative": [(FULL, WIDE)] * 4}, origin),
}


@pytest.mark.parametrize("draw", WIDEST.values(), ids=WIDEST)
def test_texts_do_not_overlap_or_leave_the_sheet(draw: Draw) -> None:
    drawn = draw(PHANTOM)
    boxes = [text.box() for text in drawn.texts()]
    width, height = drawn.size
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= width and top >= 0 and bottom <= height
        for other in boxes[:i]:
            overlap = min(right, other[2]) - max(left, other[0])
            assert overlap <= 0 or min(bottom, other[3]) - max(top, other[1]) <= 0


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_the_saved_file_contains_the_panels_and_texts(draw: Draw, tmp_path: Path) -> None:
    drawn = draw(REAL)
    drawn.save(tmp_path / "sheet.png")
    pixels = np.rint(imread(tmp_path / "sheet.png")[..., :3] * 255)
    assert pixels.shape == (*drawn.size[::-1], 3)
    top = HEAD + CAPTION
    shown = pixels[top : top + PANEL, MARGIN : MARGIN + PANEL, 0]
    middles = [int((i + 0.5) * PANEL / 28) for i in range(28)]
    np.testing.assert_array_equal(shown[np.ix_(middles, middles)], case().grey)
    for text in drawn.texts():
        left, upper, right, lower = map(round, text.box())
        assert (pixels[upper:lower, left:right] < 255).any()

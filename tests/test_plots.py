"""Figures: written, readable, drawn from the numbers given, and never silent about a phantom."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as png
from matplotlib.figure import Figure

from cxr import metrics, plots
from cxr.data.splits import Origin, Split
from cxr.labels import LABELS
from cxr.training import Epoch

REAL = Origin("chestmnist-28", "medmnist")
PHANTOM = Origin("phantom-28", "phantom")
RNG_SEED = 0


def count_labels(origin: Origin, path: Path) -> None:
    share = {label: (i + 1) / 100 for i, label in enumerate(LABELS)}
    positives = {label: i + 1 for i, label in enumerate(LABELS)}
    split = {"n": 100, "prevalence": share, "positives": positives}
    plots.label_counts({"train": split, "val": split, "test": split}, origin, path)


def show_samples(origin: Origin, path: Path) -> None:
    rng = np.random.default_rng(RNG_SEED)
    labels = (rng.random((60, 14)) < 0.2).astype(np.uint8)
    labels[:3] = 0
    images = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    plots.sample_images(Split(images, labels, None, None), origin, path)


def draw_curves(origin: Origin, path: Path) -> None:
    history = [
        Epoch(i, 0.5 / i, 0.6 / i, 0.5 + i / 20, 0.1, 0.001 / i, 1.0, 9.0) for i in (1, 2, 3)
    ]
    plots.learning_curves(history, 2, "cnn", origin, path)


def compare_models(origin: Origin, path: Path) -> None:
    rng = np.random.default_rng(RNG_SEED)
    labels = (rng.random((40, 14)) < 0.3).astype(np.uint8)
    labels[:, LABELS.index("hernia")] = 0  # an AUROC that is None
    tests = {
        name: metrics.describe(labels, rng.random((40, 14)), np.full(14, 0.5))
        for name in ("cnn", "squeezenet", "vit")
    }
    plots.auroc_by_label(tests, origin, path)


def explain_image(origin: Origin, path: Path) -> None:
    rng = np.random.default_rng(RNG_SEED)
    evidence = rng.normal(size=(14, 7, 7)).astype(np.float32)
    evidence[0] = -1  # nothing speaks for the first label
    thresholds: dict[str, float | None] = dict.fromkeys(LABELS, 0.25)
    thresholds["hernia"] = None
    image = rng.integers(0, 256, (28, 28), dtype=np.uint8)
    truth = np.eye(14, dtype=np.uint8)[LABELS.index("edema")]
    plots.grad_cam(
        image, truth, np.full(14, 0.125), thresholds, evidence, "cnn, test image 5", origin, path
    )


Draw = Callable[[Origin, Path], None]
# What draws it, its width and height in pixels, the least number of axes.
FIGURES: list[tuple[Draw, int, int, int]] = [
    (count_labels, 900, 520, 1),
    (show_samples, 1200, 820, 32),
    (draw_curves, 1050, 360, 3),
    (compare_models, 850, 620, 1),
    (explain_image, 1320, 1300, 32),
]
DRAWINGS = [draw for draw, *_ in FIGURES]


@dataclass
class Seen:
    """The figure that was saved last."""

    figure: Figure | None = None

    @property
    def title(self) -> str:
        assert self.figure is not None
        return self.figure.get_suptitle()

    @property
    def texts(self) -> list[str]:
        assert self.figure is not None
        return [ax.get_title() for ax in self.figure.axes if ax.get_title()]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Figures are kept instead of written, which takes most of their time."""
    kept = Seen()

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        kept.figure = figure

    monkeypatch.setattr(Figure, "savefig", keep)
    yield kept


@pytest.mark.parametrize(("draw", "width", "height", "n_axes"), FIGURES)
def test_figure_is_a_png_of_its_stated_size_with_something_on_it(
    draw: Draw, width: int, height: int, n_axes: int, tmp_path: Path
) -> None:
    draw(REAL, tmp_path / "figure.png")
    pixels = png.imread(tmp_path / "figure.png")
    assert pixels.shape == (height, width, 4)
    grey = pixels[..., :3].mean(axis=2)
    assert 0.01 < (grey < 0.9).mean() < 0.9  # neither blank nor black
    assert grey[:60].min() < 0.5  # the title's line


@pytest.mark.parametrize(("draw", "width", "height", "n_axes"), FIGURES)
def test_figure_has_all_its_axes(
    draw: Draw, width: int, height: int, n_axes: int, seen: Seen
) -> None:
    draw(REAL, Path("unused.png"))
    assert seen.figure is not None
    assert len(seen.figure.axes) == n_axes


@pytest.mark.parametrize("draw", DRAWINGS)
def test_figure_names_its_data_and_a_phantom_in_capitals(draw: Draw, seen: Seen) -> None:
    draw(REAL, Path("unused.png"))
    assert "PHANTOM" not in seen.title
    real = seen.title.splitlines()
    draw(PHANTOM, Path("unused.png"))
    phantom = seen.title.splitlines()
    assert real[1] == "data: chestmnist-28"
    assert phantom[1] == "PHANTOM: synthetic images, no patients (phantom-28)"
    assert real[0] == phantom[0] != ""


def test_equal_figures_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_curves(REAL, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_label_counts_draws_percent_in_order_with_the_training_counts(seen: Seen) -> None:
    count_labels(REAL, Path("unused.png"))
    assert seen.figure is not None
    (axes,) = seen.figure.axes
    for bars in axes.containers:
        assert [bar.get_width() for bar in bars] == pytest.approx(range(1, 15))
    ticks = [text.get_text() for text in axes.get_yticklabels()]
    assert ticks == [f"{label}  ({i + 1})" for i, label in enumerate(LABELS)]


def test_sample_images_show_two_of_each_finding(seen: Seen) -> None:
    show_samples(REAL, Path("unused.png"))
    assert seen.figure is not None
    named = [title.split("\n")[0] for title in seen.texts]
    assert named == [name for name in ("no finding", *LABELS) for _ in range(2)]
    rng = np.random.default_rng(RNG_SEED)
    labels = (rng.random((60, 14)) < 0.2).astype(np.uint8)
    labels[:3] = 0
    images = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    shown = [ax for ax in seen.figure.axes if ax.get_title()]
    for ax in shown:
        name, index = ax.get_title().split("\n#")
        row = labels[int(index)]
        assert row.sum() == 0 if name == "no finding" else row[LABELS.index(name)] == 1
        assert np.array_equal(ax.images[0].get_array(), images[int(index)])


def test_learning_curves_draw_the_history_and_mark_the_kept_epoch(seen: Seen) -> None:
    draw_curves(REAL, Path("unused.png"))
    assert seen.figure is not None
    loss, area, rate = seen.figure.axes
    assert list(loss.lines[0].get_ydata()) == pytest.approx([0.5, 0.25, 0.5 / 3])
    assert list(loss.lines[1].get_ydata()) == pytest.approx([0.6, 0.3, 0.2])
    assert list(area.lines[0].get_ydata()) == pytest.approx([0.55, 0.6, 0.65])
    assert list(rate.lines[0].get_ydata()) == pytest.approx([0.001, 0.0005, 0.001 / 3])
    for ax in (loss, area, rate):
        assert list(ax.lines[0].get_xdata()) == [1, 2, 3]
        assert list(ax.lines[-1].get_xdata()) == [2, 2]
    assert seen.title.startswith("cnn: epoch 2 kept, AUROC 0.600")


def test_auroc_by_label_leaves_an_undefined_label_out(seen: Seen) -> None:
    compare_models(REAL, Path("unused.png"))
    assert seen.figure is not None
    (axes,) = seen.figure.axes
    hernia = 1 + LABELS.index("hernia")  # below the macro
    places = [model.get_offsets()[:, 1] for model in axes.collections]
    for of_model in places:
        assert (-of_model).round().tolist() == [j for j in range(15) if j != hernia]
    assert len(np.unique(np.round(places, 3))) == 3 * 14  # no model hides another
    ticks = [text.get_text() for text in axes.get_yticklabels()]
    assert ticks[0] == "macro" and ticks[14] == "hernia  (n = 0)"


def test_grad_cam_sheet_has_one_scale_and_tells_an_empty_map(seen: Seen) -> None:
    explain_image(REAL, Path("unused.png"))
    assert seen.figure is not None
    rng = np.random.default_rng(RNG_SEED)
    evidence = rng.normal(size=(14, 7, 7)).astype(np.float32)
    evidence[0] = -1
    scale = np.abs(evidence).max()
    pairs = seen.figure.axes[2:30]
    for i, label in enumerate(LABELS):
        overlay, raw = pairs[2 * i].images[1], pairs[2 * i + 1].images[0]
        assert np.allclose(raw.get_array(), evidence[i])
        assert raw.get_clim() == pytest.approx((-scale, scale))
        assert np.allclose(overlay.get_array(), np.maximum(evidence[i], 0) / scale)
        assert overlay.get_clim() == (0, 1)
        cut = "no threshold" if label == "hernia" else "cut 0.250"
        said = "yes" if label == "edema" else "no"
        assert pairs[2 * i].get_title() == f"{label}: {said}\np = 0.125, {cut}"
        assert ("no positive evidence" in pairs[2 * i + 1].get_title()) == (i == 0)
    assert seen.figure.axes[0].get_title() == "the image\nedema"


def test_grad_cam_sheet_of_evidence_that_is_all_zero_can_be_drawn(seen: Seen) -> None:
    plots.grad_cam(
        np.zeros((28, 28), np.uint8), np.zeros(14, np.uint8), np.full(14, 0.5),
        dict.fromkeys(LABELS, 0.5), np.zeros((14, 7, 7), np.float32), "x", REAL, Path("unused.png"),
    )  # fmt: skip
    assert sum("no positive evidence" in title for title in seen.texts) == 14
    assert "no finding" in seen.texts[0]

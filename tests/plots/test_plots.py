"""Figures: size, layout, text, plotted values, and the mark of phantom data."""

import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as png
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr.data.splits import Origin, Split
from cxr.evaluation import intervals, subgroups
from cxr.evaluation.curves import Curve, precision_recall, roc
from cxr.evaluation.description import Predicted
from cxr.evaluation.evaluate import evaluate
from cxr.evaluation.hard_examples import find_hard_examples
from cxr.labels import CHESTMNIST
from cxr.plots import evaluation as figures
from cxr.plots.data import label_counts, sample_images
from cxr.plots.training import learning_curves
from cxr.training.loop import Epoch

TEMPLATES = Path(__file__).parents[2] / ".dvc" / "plots"
REAL = Origin("chestmnist-28", "medmnist")
PHANTOM = Origin("phantom-28", "phantom")
RNG_SEED = 0


def count_labels(origin: Origin, path: Path) -> None:
    share = {label: (i + 1) / 100 for i, label in enumerate(CHESTMNIST)}
    positives = {label: i + 1 for i, label in enumerate(CHESTMNIST)}
    split = {"n": 100, "prevalence": share, "positives": positives}
    label_counts({"train": split, "val": split, "test": split}, origin, path)


def show_samples(origin: Origin, path: Path) -> None:
    rng = np.random.default_rng(RNG_SEED)
    labels = (rng.random((60, 14)) < 0.2).astype(np.uint8)
    labels[:3] = 0
    images = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    sample_images(Split(images, labels, CHESTMNIST, None, None), origin, path)


def draw_curves(origin: Origin, path: Path) -> None:
    history = [
        Epoch(i, 0.5 / i, 0.6 / i, 0.5 + i / 20, 0.1, 0.001 / i, 1.0, 9.0) for i in (1, 2, 3)
    ]
    learning_curves(history, 2, "cnn", origin, path)


@cache
def evaluated() -> tuple[np.ndarray, dict[str, Predicted], dict[str, Any]]:
    """Labels, predictions and metrics of three models; hernia has one class, mass is rare."""
    rng = np.random.default_rng(RNG_SEED)
    labels = (rng.random((200, 14)) < 0.3).astype(np.uint8)
    labels[:, [CHESTMNIST.index("hernia"), CHESTMNIST.index("mass")]] = 0
    labels[:3, CHESTMNIST.index("mass")] = 1
    models = {}
    for name in ("cnn", "squeezenet", "vit"):
        probs = rng.random((200, 14))
        models[name] = Predicted(probs, probs, np.full(14, 0.5), "")
    tests = evaluate(labels, CHESTMNIST, models, None, 100, 0, lambda done, total: None).models
    return labels, models, {name: tests[name] for name in models}


def compare_models(origin: Origin, path: Path) -> None:
    figures.forest(evaluated()[2], "auroc", origin, path)


def compare_precisions(origin: Origin, path: Path) -> None:
    figures.forest(evaluated()[2], "ap", origin, path)


def curves(kind: Callable[[Any, Any], Curve]) -> figures.Curves:
    labels, models, _ = evaluated()
    return {
        label: {n: kind(labels[:, i], m.scores[:, i]) for n, m in models.items()}
        if labels[:, i].any()
        else {}
        for i, label in enumerate(CHESTMNIST)
    }


def draw_roc(origin: Origin, path: Path) -> None:
    figures.roc(curves(roc), evaluated()[2], origin, path)


def draw_precision_recall(origin: Origin, path: Path) -> None:
    figures.precision_recall(curves(precision_recall), evaluated()[2], origin, path)


def draw_reliability(origin: Origin, path: Path) -> None:
    figures.reliability(evaluated()[2], origin, path)


def draw_pairs(origin: Origin, path: Path) -> None:
    labels, models, _ = evaluated()
    predicted_positive = {name: model.probs >= 0.5 for name, model in models.items()}
    figures.label_pairs(labels, CHESTMNIST, predicted_positive, origin, path)


def show_hard_examples(origin: Origin, path: Path) -> None:
    labels, models, _ = evaluated()
    probs = {name: model.probs for name, model in models.items()}
    examples = find_hard_examples(labels, list(probs.values()), 20)
    images = np.random.default_rng(RNG_SEED).integers(0, 256, (200, 28, 28), dtype=np.uint8)
    index = examples.index
    titles = [f"#{i}" for i in index]
    probs = {name: of_model[index] for name, of_model in probs.items()}
    figures.hard_examples(
        examples, images[index], labels[index], CHESTMNIST, probs, titles, origin, path
    )


Draw = Callable[[Origin, Path], None]
# Drawing function, width and height in pixels, number of axes.
FIGURES: list[tuple[Draw, int, int, int]] = [
    (count_labels, 900, 520, 1),
    (show_samples, 1200, 820, 32),
    (draw_curves, 1050, 360, 3),
    (compare_models, 850, 720, 1),
    (compare_precisions, 850, 720, 1),
    (draw_roc, 1500, 960, 15),
    (draw_precision_recall, 1500, 960, 15),
    (draw_reliability, 1500, 960, 15),
    (draw_pairs, 1300, 1240, 5),
    (show_hard_examples, 1450, 1260, 24),
]
DRAWINGS = [draw for draw, *_ in FIGURES]


@dataclass
class Seen:
    """The last saved figure."""

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
    """Store figures instead of writing them, which takes most of the time."""
    seen = Seen()

    def store(figure: Figure, path: Path, **options: Any) -> None:
        seen.figure = figure

    monkeypatch.setattr(Figure, "savefig", store)
    yield seen


@pytest.mark.parametrize(("draw", "width", "height", "n_axes"), FIGURES)
def test_figure_is_a_png_of_the_expected_size_that_is_not_blank(
    draw: Draw, width: int, height: int, n_axes: int, tmp_path: Path
) -> None:
    draw(REAL, tmp_path / "figure.png")
    pixels = png.imread(tmp_path / "figure.png")
    assert pixels.shape == (height, width, 4)
    grey = pixels[..., :3].mean(axis=2)
    assert 0.01 < (grey < 0.9).mean() < 0.9  # neither blank nor black
    assert grey[:60].min() < 0.5  # the title


@pytest.mark.parametrize(("draw", "width", "height", "n_axes"), FIGURES)
def test_figure_has_all_its_axes(
    draw: Draw, width: int, height: int, n_axes: int, seen: Seen
) -> None:
    draw(REAL, Path("unused.png"))
    assert seen.figure is not None
    assert len(seen.figure.axes) == n_axes


@pytest.mark.parametrize("draw", DRAWINGS)
def test_the_title_does_not_overlap_the_axes(draw: Draw, seen: Seen) -> None:
    draw(REAL, Path("unused.png"))
    figure = seen.figure
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    assert figure._suptitle is not None
    below = figure._suptitle.get_window_extent(renderer).y0
    for axes in figure.axes:
        assert axes.get_tightbbox(renderer).y1 <= below + 1


@pytest.mark.parametrize("draw", DRAWINGS)
def test_figure_names_its_data_and_marks_a_phantom_in_capitals(draw: Draw, seen: Seen) -> None:
    draw(REAL, Path("unused.png"))
    assert "PHANTOM" not in seen.title
    real = seen.title.splitlines()
    draw(PHANTOM, Path("unused.png"))
    phantom = seen.title.splitlines()
    assert real[1] == "data: chestmnist-28"
    assert phantom[1] == "PHANTOM: synthetic images, no patients (phantom-28)"
    assert real[0] == phantom[0] != ""


def test_equal_figures_are_identical_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_curves(REAL, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_label_counts_shows_sorted_percentages_with_the_training_counts(seen: Seen) -> None:
    count_labels(REAL, Path("unused.png"))
    assert seen.figure is not None
    (axes,) = seen.figure.axes
    for bars in axes.containers:
        assert [bar.get_width() for bar in bars] == pytest.approx(range(1, 15))
    ticks = [text.get_text() for text in axes.get_yticklabels()]
    assert ticks == [f"{label}  ({i + 1})" for i, label in enumerate(CHESTMNIST)]


def test_sample_images_show_two_images_per_finding(seen: Seen) -> None:
    show_samples(REAL, Path("unused.png"))
    assert seen.figure is not None
    names = [title.split("\n")[0] for title in seen.texts]
    assert names == [name for name in ("no finding", *CHESTMNIST) for _ in range(2)]
    rng = np.random.default_rng(RNG_SEED)
    labels = (rng.random((60, 14)) < 0.2).astype(np.uint8)
    labels[:3] = 0
    images = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    shown = [ax for ax in seen.figure.axes if ax.get_title()]
    for ax in shown:
        name, index = ax.get_title().split("\n#")
        row = labels[int(index)]
        assert row.sum() == 0 if name == "no finding" else row[CHESTMNIST.index(name)] == 1
        assert np.array_equal(ax.images[0].get_array(), images[int(index)])


def test_learning_curves_show_the_history_and_mark_the_best_epoch(seen: Seen) -> None:
    draw_curves(REAL, Path("unused.png"))
    assert seen.figure is not None
    loss, auroc, lr = seen.figure.axes
    assert list(loss.lines[0].get_ydata()) == pytest.approx([0.5, 0.25, 0.5 / 3])
    assert list(loss.lines[1].get_ydata()) == pytest.approx([0.6, 0.3, 0.2])
    assert list(auroc.lines[0].get_ydata()) == pytest.approx([0.55, 0.6, 0.65])
    assert list(lr.lines[0].get_ydata()) == pytest.approx([0.001, 0.0005, 0.001 / 3])
    assert [ax.get_ylabel() for ax in (loss, auroc, lr)] == [
        "Cross-entropy loss", "Macro AUROC (validation)", "Learning rate",
    ]  # fmt: skip
    for ax in (loss, auroc, lr):
        assert list(ax.lines[0].get_xdata()) == [1, 2, 3]
        assert list(ax.lines[-1].get_xdata()) == [2, 2]
    assert seen.title.startswith("cnn: best epoch 2, macro AUROC 0.600 (validation)")


def test_forest_plot_of_auroc_omits_undefined_labels(seen: Seen) -> None:
    compare_models(REAL, Path("unused.png"))
    assert seen.figure is not None
    (axes,) = seen.figure.axes
    points = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    positions = [-float(point.get_ydata()[0]) for point in points]
    hernia = 1 + CHESTMNIST.index("hernia")  # the macro mean is row 0
    assert sorted({round(position) for position in positions}) == [
        j for j in range(15) if j != hernia
    ]
    assert len(set(positions)) == len(positions) == 3 * 14  # points do not hide each other
    ticks = [text.get_text() for text in axes.get_yticklabels()]
    assert ticks[0] == "macro" and ticks[14] == "hernia  (n = 0)"


def test_forest_plot_shows_every_interval_and_hollow_points_for_few_cases(seen: Seen) -> None:
    compare_models(REAL, Path("unused.png"))
    assert seen.figure is not None
    (axes,) = seen.figure.axes
    drawn = {tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2}
    for test in evaluated()[2].values():
        assert tuple(test["macro_auroc_ci"]) in drawn
        assert test["intervals"]["unsure"] == ["mass"]
        for each in test["labels"].values():
            assert each["auroc"] is None or tuple(each["auroc_ci"]) in drawn
    points = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    hollow = {round(-p.get_ydata()[0]) for p in points if p.get_markerfacecolor() == "white"}
    assert hollow == {1 + CHESTMNIST.index("mass")}
    assert axes.get_xlabel() == (
        "AUROC (test)\n95% CI (200 images); too narrow without patient ids; hollow: too few cases"
    )


def test_forest_plot_of_groups_shows_every_group_and_hollow_points_for_small_ones(
    seen: Seen,
) -> None:
    labels, models, tests = evaluated()
    sites = np.array(["a"] * 120 + ["b"] * 70 + ["c"] * 10)
    grouped = subgroups.group({"site": sites}, {})
    resamples = intervals.draw(200, None, 100, 0)
    report = subgroups.describe(
        labels.astype(np.int8), CHESTMNIST, models, grouped, resamples, lambda done, total: None
    )
    figures.subgroups(report, tests, REAL, Path("unused.png"))
    assert seen.figure is not None
    (axes,) = seen.figure.axes
    ticks = [text.get_text() for text in axes.get_yticklabels()]
    assert ticks == [
        "all images", "site: a  (n = 120)", "site: b  (n = 70)", "site: c  (n = 10)",
    ]  # fmt: skip
    points = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    drawn = {(round(-p.get_ydata()[0]), float(p.get_xdata()[0])) for p in points}
    expected = {(0, test["macro_auroc"]) for test in tests.values()}
    for of_groups in report["attributes"]["site"]["models"].values():
        values = [each["macro_auroc"] for each in of_groups.values()]
        expected |= {(row, value) for row, value in enumerate(values, 1) if value is not None}
    assert drawn == expected
    hollow = {round(-p.get_ydata()[0]) for p in points if p.get_markerfacecolor() == "white"}
    assert hollow <= {3} and "hollow: too few patients" in axes.get_xlabel()


def test_forest_plot_of_precision_shows_prevalence_as_chance(seen: Seen) -> None:
    compare_precisions(REAL, Path("unused.png"))
    assert seen.figure is not None
    labels, dotted = evaluated()[0], {}
    for line in seen.figure.axes[0].lines:
        if line.get_linestyle() == ":" and len(line.get_xdata()):
            dotted[round(-np.mean(line.get_ydata()))] = line.get_xdata()[0]
    prevalence = labels.mean(axis=0)
    defined = [i for i in range(14) if prevalence[i]]
    assert dotted == pytest.approx(
        {i + 1: prevalence[i] for i in defined} | {0: prevalence[defined].mean()}
    )


@pytest.mark.parametrize("draw", [draw_roc, draw_precision_recall])
def test_legends_of_curves_contain_their_metrics(draw: Draw, seen: Seen) -> None:
    draw(REAL, Path("unused.png"))
    assert seen.figure is not None
    metric = "auroc" if draw is draw_roc else "ap"
    for axes, label in zip(seen.figure.axes, CHESTMNIST, strict=False):
        if label == "hernia":
            assert "one class only" in axes.texts[0].get_text()
            continue
        values = [text.get_text() for text in axes.get_legend().get_texts()]
        assert values == [f"{t['labels'][label][metric]:.3f}" for t in evaluated()[2].values()]


def test_calibration_curves_show_the_bins(seen: Seen) -> None:
    draw_reliability(REAL, Path("unused.png"))
    assert seen.figure is not None
    assert seen.figure.get_supxlabel() == "Predicted probability"
    assert seen.figure.get_supylabel() == "Observed frequency"
    axes = seen.figure.axes[CHESTMNIST.index("edema")]
    bins = evaluated()[2]["vit"]["labels"]["edema"]["reliability"]
    assert list(axes.lines[-1].get_xdata()) == bins["mean_prob"]
    assert list(axes.lines[-1].get_ydata()) == bins["share_positive"]


def test_label_pairs_are_fractions_of_the_row(seen: Seen) -> None:
    draw_pairs(REAL, Path("unused.png"))
    assert seen.figure is not None
    labels, models, _ = evaluated()
    data, cnn = (axes.images[0].get_array() for axes in seen.figure.axes[:2])
    edema, mass = CHESTMNIST.index("edema"), CHESTMNIST.index("mass")
    has = labels[:, edema] == 1
    assert data[edema, edema] == 1
    assert data[edema, mass] == pytest.approx(labels[has, mass].mean())
    assert cnn[edema, mass] == pytest.approx((models["cnn"].probs[has, mass] >= 0.5).mean())
    assert np.ma.getmaskarray(data)[CHESTMNIST.index("hernia")].all()
    without = labels.sum(axis=1) == 0
    assert data.shape == (15, 14)
    if without.any():
        assert cnn[14, mass] == pytest.approx((models["cnn"].probs[without, mass] >= 0.5).mean())


def test_label_pairs_are_fractions_of_known_labels(seen: Seen) -> None:
    labels = np.zeros((4, 14), np.int8)
    labels[:, 0] = 1
    labels[:, 1] = [1, 0, -1, -1]
    figures.label_pairs(labels, CHESTMNIST, {}, REAL, Path("unused.png"))
    assert seen.figure is not None
    assert seen.figure.axes[0].images[0].get_array()[0, 1] == 0.5


def test_hard_examples_name_image_labels_and_probabilities(seen: Seen) -> None:
    show_hard_examples(REAL, Path("unused.png"))
    assert seen.figure is not None
    labels, models, _ = evaluated()
    assert len(seen.texts) == 20
    for title in seen.texts:
        lines = title.splitlines()
        index = int(lines[0].split()[0].removeprefix("#"))
        present = [label for label, y in zip(CHESTMNIST, labels[index], strict=True) if y]
        assert " ".join(lines[1:-1]) == (", ".join(present) or "no finding")
        label = lines[-1].split(":")[0]
        probs = ", ".join(f"{m.probs[index, CHESTMNIST.index(label)]:.3f}" for m in models.values())
        assert lines[-1].endswith(f"p = {probs}")
        assert ("yes" in lines[-1]) == (label in present)


def test_the_page_of_dvc_plots_contains_the_locked_version_of_vega() -> None:
    page = runpy.run_path(str(TEMPLATES / "page.py"))["page"]()
    assert (TEMPLATES / "page.html").read_text() == page

"""How good the models are: areas with intervals, curves, label pairs, surprising images."""

from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.arrays import Floats, Labels
from cxr.data.splits import Origin
from cxr.evaluation.curves import Curve
from cxr.evaluation.hard_examples import HardExamples
from cxr.labels import LABELS
from cxr.plots.figure import COLOURS, GREY, finish

ROWS, COLUMNS = 3, 5  # of panels, one a label; the last one holds the legend

Curves = dict[str, dict[str, Curve]]  # by label, by model


def forest(tests: dict[str, Any], metric: str, origin: Origin, path: Path) -> None:
    """One measure of every label with its interval, all models over each other, macro first.

    Parameters
    ----------
    tests : by model, its test object of reports/metrics.json.
    metric : `auroc` or `ap`.
    """
    figure = Figure(figsize=(8.5, 7.2), layout="constrained")
    axes = figure.subplots()
    first = next(iter(tests.values()))
    about, labels = first["intervals"], first["labels"]
    for i, (model, test) in enumerate(tests.items()):
        colour = COLOURS[i % len(COLOURS)]
        beside = (i - (len(tests) - 1) / 2) * 0.2  # so that equal values don't hide each other
        macro = {key: test[f"macro_{key}"] for key in (metric, f"{metric}_ci")}
        for j, (name, row) in enumerate({"macro": macro, **test["labels"]}.items()):
            if row[metric] is None:
                continue
            place, sure = -j - beside, name not in about["unsure"]
            axes.plot(row[f"{metric}_ci"] or [row[metric]] * 2, [place, place], color=colour)
            axes.plot(
                row[metric], place, "o", color=colour, markersize=5,
                markerfacecolor=colour if sure else "white",
            )  # fmt: skip
        axes.plot([], [], "o", color=colour, markersize=5, label=model)
    chance = {name: row["prevalence"] for name, row in labels.items() if row["ap"] is not None}
    chance["macro"] = float(np.mean(list(chance.values()) or [np.nan]))
    for j, name in enumerate(("macro", *LABELS)):
        if name in chance:
            at = 0.5 if metric == "auroc" else chance[name]
            axes.plot([at, at], [-j - 0.42, -j + 0.42], color=GREY, linestyle=":")
    axes.plot([], [], color=GREY, linestyle=":", label="chance")
    axes.axhline(-0.5, color=GREY, linewidth=0.6)
    ticks = [f"{name}  (n = {row['n_positive']:,})" for name, row in labels.items()]
    axes.set_yticks([-j for j in range(len(LABELS) + 1)], ["macro", *ticks])
    notes = [
        f"{about['level']:.0%} intervals over {about['n_units']:,} {about['unit']}s",
        "too narrow: no patient ids" if about["unit"] == "image" else "",
        "hollow: too few to be sure" if about["unsure"] else "",
    ]
    title = {"auroc": "AUROC", "ap": "average precision"}[metric]
    axes.set_xlabel(f"{title} on test\n{', '.join(filter(None, notes))}")
    axes.grid(axis="x", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(tests) + 1)
    finish(figure, f"{title} by finding", origin, path)


def roc(curves: Curves, tests: dict[str, Any], origin: Origin, path: Path) -> None:
    """ROC curves of every label."""

    def chance(axes: Axes, label: str) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)

    axis_labels = ("1 - specificity", "sensitivity")
    _by_label(curves, tests, "auroc", chance, axis_labels, "ROC curves on test", origin, path)


def precision_recall(curves: Curves, tests: dict[str, Any], origin: Origin, path: Path) -> None:
    """Precision-recall curves of every label, beside its prevalence, which is chance."""
    labels = next(iter(tests.values()))["labels"]

    def chance(axes: Axes, label: str) -> None:
        axes.axhline(labels[label]["prevalence"], color=GREY, linestyle=":", linewidth=1)

    axis_labels = ("recall", "precision")
    title = "Precision and recall on test"
    _by_label(curves, tests, "ap", chance, axis_labels, title, origin, path)


def reliability(tests: dict[str, Any], origin: Origin, path: Path) -> None:
    """Share of positives against mean probability in ten bins of equally many images."""
    curves: Curves = {label: {} for label in LABELS}
    for model, test in tests.items():
        for label, each in test["labels"].items():
            bins = each["reliability"]
            x, y = np.array(bins["mean_prob"]), np.array(bins["share_positive"])
            curves[label][model] = Curve(x, y)

    def exact(axes: Axes, label: str) -> None:
        ends = [max(curve.x.max(), curve.y.max()) for curve in curves[label].values()]
        end = max(*ends, 0.01) * 1.05
        axes.plot([0, end], [0, end], color=GREY, linestyle=":", linewidth=1)
        axes.set(xlim=(0, end), ylim=(0, end))

    axis_labels = ("probability told", "share of positives")
    title = "Reliability on test: what was told and what was"
    _by_label(curves, tests, "ece", exact, axis_labels, title, origin, path)


def label_pairs(
    labels: Labels, predicted_positive: dict[str, npt.NDArray[np.bool_]], origin: Origin, path: Path
) -> None:
    """Of the test images with one finding, the share that has and is called each other.

    Parameters
    ----------
    labels : (N, L) of 0 and 1.
    predicted_positive : of each model, (N, L).
    """
    columns = 2
    rows = (len(predicted_positive) + 2) // columns
    figure = Figure(figsize=(13, 6.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    given = np.hstack([labels, ~labels.any(axis=1, keepdims=True)]).astype(float)
    n_given = given.sum(axis=0)
    for axes in panels:
        axes.axis("off")
    for axes, (title, marked) in zip(
        panels, {"the data": labels, **predicted_positive}.items(), strict=False
    ):
        axes.axis("on")
        with np.errstate(invalid="ignore"):
            share = (given.T @ marked.astype(float)) / n_given[:, None]
        shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(share):
            if not np.isnan(value):
                axes.text(
                    j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7,
                    color="white" if value > 0.6 else "black",
                )  # fmt: skip
        verb = "has" if title == "the data" else "is called"
        axes.set_title(f"{title}: % that {verb} …", fontsize=10)
        axes.set_xticks(range(len(LABELS)), LABELS, rotation=60, ha="right", fontsize=8)
        names = [*LABELS, "no finding"]
        ticks = [f"{name} ({int(n):,})" for name, n in zip(names, n_given, strict=True)]
        axes.set_yticks(range(len(names)), ticks, fontsize=8)
    figure.colorbar(shown, ax=panels, shrink=0.4, label="share of the row's images")
    finish(figure, "Of the test images with the row's finding, how many …", origin, path)


def hard_examples(
    found: HardExamples,
    images: npt.NDArray[np.uint8],
    labels: Labels,
    probs: dict[str, Floats],
    names: list[str],
    origin: Origin,
    path: Path,
) -> None:
    """The images whose labels the models believe least, each with the label that costs most.

    Parameters
    ----------
    images : (K, H, W), of `found`.
    labels : (K, L).
    probs : of each model, (K, L).
    names : of the images, (K,).
    """
    figure = Figure(figsize=(14.5, 12.6), layout="constrained")
    panels = figure.subplots(4, 6).ravel()
    for axes in panels:
        axes.axis("off")
    for i, label in enumerate(found.label):
        axes = panels[i]
        axes.imshow(images[i], cmap="gray", vmin=0, vmax=255)
        there = [name for name, y in zip(LABELS, labels[i], strict=True) if y]
        told = ", ".join(f"{each[i, label]:.3f}" for each in probs.values())
        truth = "yes" if labels[i, label] else "no"
        axes.set_title(
            f"{names[i]}  loss {found.loss[i]:.2f}\n{fill(', '.join(there), 40) or 'no finding'}\n"
            f"{LABELS[label]}: {truth}, p = {told}",
            fontsize=7.5,
        )
    title = f"The most surprising test images (p of {', '.join(probs)}): is the label right?"
    finish(figure, title, origin, path)


def _by_label(
    curves: Curves,
    tests: dict[str, Any],
    metric: str,
    background: Callable[[Axes, str], None],
    axis_labels: tuple[str, str],
    title: str,
    origin: Origin,
    path: Path,
) -> None:
    """A panel a label with every model's curve, and the models' numbers in its legend."""
    figure = Figure(figsize=(15, 9.6), layout="constrained")
    panels = figure.subplots(ROWS, COLUMNS).ravel()
    colours = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(tests)}
    for axes, label in zip(panels, LABELS, strict=False):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        n_positive = next(iter(tests.values()))["labels"][label]["n_positive"]
        axes.set_title(f"{label}, {n_positive:,} positive", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if not curves[label]:
            axes.text(0.5, 0.5, "undefined: one class only", ha="center", fontsize=8, color=GREY)
            continue
        background(axes, label)
        for model, curve in curves[label].items():
            value = tests[model]["labels"][label][metric]
            marker = "." if metric == "ece" else None
            axes.plot(curve.x, curve.y, color=colours[model], linewidth=1.2, marker=marker,
                      label=f"{value:.3f}")  # fmt: skip
        axes.legend(frameon=False, fontsize=7, handlelength=1, title=metric.upper(),
                    title_fontsize=7)  # fmt: skip
    for axes in panels[len(LABELS) :]:
        axes.axis("off")
        for model, colour in colours.items():
            axes.plot([], [], color=colour, label=model)
        axes.plot([], [], color=GREY, linestyle=":", label="exact" if metric == "ece" else "chance")
        axes.legend(frameon=False, loc="center")
    figure.supxlabel(axis_labels[0], fontsize=10)
    figure.supylabel(axis_labels[1], fontsize=10)
    finish(figure, title, origin, path)

"""Figures of the evaluation: metrics with intervals, curves, label pairs and hard examples."""

from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.arrays import Flags, Floats, Labels
from cxr.data.splits import Origin
from cxr.evaluation.curves import Curve
from cxr.evaluation.hard_examples import HardExamples
from cxr.plots.figure import COLOURS, GREY, finish, short

COLUMNS = 5  # of panels, one per label; the last one contains the legend

Curves = dict[str, dict[str, Curve]]  # by label, then by model


def forest(tests: dict[str, Any], metric: str, origin: Origin, path: Path) -> None:
    """Forest plot of one metric by label with confidence intervals of all models, macro first.

    Parameters
    ----------
    tests : by model, its `test` object in reports/metrics.json.
    metric : `auroc` or `ap`.
    """
    first = next(iter(tests.values()))
    interval_info, labels = first["intervals"], first["labels"]
    figure = Figure(figsize=(8.5, max(3.6, 0.48 * (len(labels) + 1))), layout="constrained")
    axes = figure.subplots()
    for i, (model, test) in enumerate(tests.items()):
        colour = COLOURS[i % len(COLOURS)]
        offset = (i - (len(tests) - 1) / 2) * 0.2  # so that equal values do not hide each other
        macro = {key: test[f"macro_{key}"] for key in (metric, f"{metric}_ci")}
        for j, (name, row) in enumerate({"macro": macro, **test["labels"]}.items()):
            is_reliable = name not in interval_info["unsure"]
            _point(axes, row[metric], row[f"{metric}_ci"], -j - offset, colour, is_reliable)
        axes.plot([], [], "o", color=colour, markersize=5, label=model)
    chance = {name: row["prevalence"] for name, row in labels.items() if row["ap"] is not None}
    chance["macro"] = float(np.mean(list(chance.values()) or [np.nan]))
    for j, name in enumerate(("macro", *labels)):
        if name in chance:
            x = 0.5 if metric == "auroc" else chance[name]
            axes.plot([x, x], [-j - 0.42, -j + 0.42], color=GREY, linestyle=":")
    axes.plot([], [], color=GREY, linestyle=":", label="Chance")
    axes.axhline(-0.5, color=GREY, linewidth=0.6)
    ticks = [f"{short(name)}  (n = {row['n_positive']:,})" for name, row in labels.items()]
    axes.set_yticks([-j for j in range(len(ticks) + 1)], ["macro", *ticks])
    axes.set_ylim(-len(ticks) - 0.7, 0.7)
    units = f"{interval_info['n_units']:,} {interval_info['unit']}s"
    notes = [
        f"{interval_info['level']:.0%} CI ({units})",
        "too narrow without patient ids" if interval_info["unit"] == "image" else "",
        "hollow: too few cases" if interval_info["unsure"] else "",
    ]
    title = {"auroc": "AUROC", "ap": "Average precision"}[metric]
    axes.set_xlabel(f"{title} (test)\n{'; '.join(filter(None, notes))}")
    axes.grid(axis="x", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(tests) + 1)
    finish(figure, f"{title} by finding", origin, path)


def subgroups(report: dict[str, Any], tests: dict[str, Any], origin: Origin, path: Path) -> None:
    """Forest plot of each model's macro AUROC by group, with one block per attribute.

    Parameters
    ----------
    report : `subgroups` in reports/metrics.json, with at least one attribute.
    tests : by model, its `test` object there.
    """
    rows: list[tuple[str, dict[str, Any], bool]] = [("all images", tests, True)]
    starts = []
    for attribute, of_groups in report["attributes"].items():
        starts.append(len(rows))
        for name, group in of_groups["groups"].items():
            measured = {model: each[name] for model, each in of_groups["models"].items()}
            title = f"{short(f'{attribute}: {name}')}  (n = {group['n']:,})"
            rows.append((title, measured, not group["small"]))
    figure = Figure(figsize=(8.5, max(3.2, 0.48 * len(rows) + 1)), layout="constrained")
    axes = figure.subplots()
    for i, model in enumerate(tests):
        colour = COLOURS[i % len(COLOURS)]
        offset = (i - (len(tests) - 1) / 2) * 0.2
        for j, (_, measured, is_reliable) in enumerate(rows):
            value, ci = (measured[model][f"macro_auroc{end}"] for end in ("", "_ci"))
            _point(axes, value, ci, -j - offset, colour, is_reliable)
        axes.plot([], [], "o", color=colour, markersize=5, label=model)
    axes.axvline(0.5, color=GREY, linestyle=":", label="Chance")
    for start in starts:
        axes.axhline(0.5 - start, color=GREY, linewidth=0.6)
    axes.set_yticks([-j for j in range(len(rows))], [name for name, _, _ in rows])
    axes.set_ylim(-len(rows) + 0.3, 0.7)
    has_small = any(not is_reliable for _, _, is_reliable in rows)
    interval_info = next(iter(tests.values()))["intervals"]
    note = f"{interval_info['level']:.0%} CI{'; hollow: too few patients' if has_small else ''}"
    axes.set_xlabel(f"Macro AUROC (test)\n{note}")
    axes.grid(axis="x", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(tests) + 1)
    finish(figure, "Macro AUROC by group", origin, path)


def roc(curves: Curves, tests: dict[str, Any], origin: Origin, path: Path) -> None:
    """ROC curves of every label."""

    def chance(axes: Axes, label: str) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)

    axis_labels = ("False positive rate (1 - specificity)", "True positive rate (sensitivity)")
    _by_label(curves, tests, "auroc", chance, axis_labels, "ROC curves (test)", origin, path)


def precision_recall(curves: Curves, tests: dict[str, Any], origin: Origin, path: Path) -> None:
    """Precision-recall curves of every label, with its prevalence as chance level."""
    labels = next(iter(tests.values()))["labels"]

    def chance(axes: Axes, label: str) -> None:
        axes.axhline(labels[label]["prevalence"], color=GREY, linestyle=":", linewidth=1)

    axis_labels = ("Recall", "Precision")
    title = "Precision-recall curves (test)"
    _by_label(curves, tests, "ap", chance, axis_labels, title, origin, path)


def reliability(tests: dict[str, Any], origin: Origin, path: Path) -> None:
    """Observed frequency against mean predicted probability in ten bins of equal size."""
    curves: Curves = {label: {} for label in next(iter(tests.values()))["labels"]}
    for model, test in tests.items():
        for label, metrics in test["labels"].items():
            bins = metrics["reliability"]
            x, y = np.array(bins["mean_prob"]), np.array(bins["share_positive"])
            if len(x):
                curves[label][model] = Curve(x, y)

    def diagonal(axes: Axes, label: str) -> None:
        ends = [max(curve.x.max(), curve.y.max()) for curve in curves[label].values()]
        end = max(*ends, 0.01) * 1.05
        axes.plot([0, end], [0, end], color=GREY, linestyle=":", linewidth=1)
        axes.set(xlim=(0, end), ylim=(0, end))

    axis_labels = ("Predicted probability", "Observed frequency")
    title = "Calibration (test): predicted versus observed"
    _by_label(curves, tests, "ece", diagonal, axis_labels, title, origin, path)


def _point(
    axes: Axes,
    value: float | None,
    ci: list[float] | None,
    y: float,
    colour: str,
    is_reliable: bool,
) -> None:
    """One value of a forest plot with its interval; hollow if it is not reliable."""
    if value is None:
        return
    axes.plot(ci or [value, value], [y, y], color=colour)
    face = colour if is_reliable else "white"
    axes.plot(value, y, "o", color=colour, markersize=5, markerfacecolor=face)


def label_pairs(
    labels: Labels,
    names: tuple[str, ...],
    predicted_positive: dict[str, Flags],
    origin: Origin,
    path: Path,
) -> None:
    """Of the test images with one finding, the fraction that has, or is predicted, each other one.

    Parameters
    ----------
    labels : (N, L) of 0, 1 and UNKNOWN; the fractions are of known labels.
    names : (L,), of the labels.
    predicted_positive : by model, (N, L).
    """
    columns = 2
    rows = (len(predicted_positive) + 2) // columns
    scale = max(1.0, len(names) / 16)
    figure = Figure(figsize=(13 * scale, 6.2 * scale * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    of_row = np.hstack([labels == 1, (labels == 0).all(axis=1, keepdims=True)]).astype(float)
    n_of_row = of_row.sum(axis=0)
    for axes in panels:
        axes.axis("off")
    always = np.ones(labels.shape)
    columns_of = {"True labels": (labels == 1, (labels >= 0).astype(float))}
    columns_of |= {
        f"Predictions of {name}": (each, always) for name, each in predicted_positive.items()
    }
    for axes, (title, (of_column, is_known)) in zip(panels, columns_of.items(), strict=False):
        axes.axis("on")
        with np.errstate(invalid="ignore"):
            share = (of_row.T @ of_column.astype(float)) / (of_row.T @ is_known)
        shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(share):
            if not np.isnan(value):
                axes.text(
                    j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7,
                    color="white" if value > 0.6 else "black",
                )  # fmt: skip
        axes.set_title(f"{title} (% of row)", fontsize=10)
        axes.set_xticks(range(len(names)), map(short, names), rotation=60, ha="right", fontsize=8)
        of_rows = zip((*names, "no finding"), n_of_row, strict=True)
        ticks = [f"{short(name)} ({int(n):,})" for name, n in of_rows]
        axes.set_yticks(range(len(ticks)), ticks, fontsize=8)
    figure.colorbar(shown, ax=panels, shrink=0.4, label="Fraction of the row's images")
    title = "Co-occurrence of findings (test): rows are true labels"
    finish(figure, title, origin, path)


def hard_examples(
    examples: HardExamples,
    images: npt.NDArray[np.uint8],
    labels: Labels,
    names: tuple[str, ...],
    probs: dict[str, Floats],
    titles: list[str],
    origin: Origin,
    path: Path,
) -> None:
    """The images with the highest loss, each with the label that contributes most to it.

    Parameters
    ----------
    images : (K, H, W), of `examples`.
    labels : (K, L).
    names : (L,), of the labels.
    probs : by model, (K, L).
    titles : of the images, (K,).
    """
    figure = Figure(figsize=(14.5, 12.6), layout="constrained")
    panels = figure.subplots(4, 6).ravel()
    for axes in panels:
        axes.axis("off")
    for i, label in enumerate(examples.label):
        axes = panels[i]
        axes.imshow(images[i], cmap="gray", vmin=0, vmax=255)
        present = [name for name, y in zip(names, labels[i], strict=True) if y == 1]
        of_models = ", ".join(f"{p[i, label]:.3f}" for p in probs.values())
        truth = "yes" if labels[i, label] == 1 else "no"
        none = "no finding" if (labels[i] == 0).all() else "no known finding"
        findings = fill(", ".join(map(short, present)), 40, max_lines=2) or none
        axes.set_title(
            f"{titles[i]}  loss {examples.loss[i]:.2f}\n{findings}\n"
            f"{short(names[label])}: {truth}, p = {of_models}",
            fontsize=7.5,
        )
    title = f"Test images with the highest loss; predicted probability p: {', '.join(probs)}"
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
    """One panel per label with every model's curve, and the models' metric in its legend."""
    rows = len(curves) // COLUMNS + 1
    width, height = 15, 3.2 * rows
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(rows, COLUMNS).ravel()
    # Fixed margins in inches: a constrained layout would draw all panels twice.
    figure.subplots_adjust(
        left=1 / width, right=1 - 0.15 / width, bottom=0.65 / height, top=1 - 0.85 / height,
        wspace=0.2, hspace=0.28,
    )  # fmt: skip
    colours = {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(tests)}
    for axes, label in zip(panels, curves, strict=False):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        n_positive = next(iter(tests.values()))["labels"][label]["n_positive"]
        axes.set_title(f"{short(label)} ({n_positive:,} positive)", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=6)
        axes.spines[["top", "right"]].set_visible(False)
        if not curves[label]:
            axes.text(0.5, 0.5, "undefined (one class only)", ha="center", fontsize=8, color=GREY)
            continue
        background(axes, label)
        for model, curve in curves[label].items():
            value = tests[model]["labels"][label][metric]
            marker = "." if metric == "ece" else None
            axes.plot(curve.x, curve.y, color=colours[model], linewidth=1.2, marker=marker,
                      label=f"{value:.3f}")  # fmt: skip
        axes.legend(frameon=False, fontsize=7, handlelength=1, title=metric.upper(),
                    title_fontsize=7)  # fmt: skip
    for axes in panels[len(curves) :]:
        axes.axis("off")
        for model, colour in colours.items():
            axes.plot([], [], color=colour, label=model)
        reference = "Perfect calibration" if metric == "ece" else "Chance"
        axes.plot([], [], color=GREY, linestyle=":", label=reference)
        axes.legend(frameon=False, loc="center")
    figure.supxlabel(axis_labels[0], fontsize=10)
    figure.supylabel(axis_labels[1], fontsize=10)
    finish(figure, title, origin, path)

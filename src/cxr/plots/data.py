"""Figures of the data."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from cxr.data.splits import Origin, Split
from cxr.plots.figure import COLOURS, finish, short


def label_counts(splits: dict[str, Any], origin: Origin, path: Path) -> None:
    """Prevalence of every label in every split, with the number of positive training images."""
    prevalence = splits["train"]["prevalence"]
    labels = sorted(prevalence, key=lambda label: prevalence[label] or 0)
    figure = Figure(figsize=(9, max(3.0, 1.28 + 0.28 * len(labels))), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(labels))
    for i, (name, split) in enumerate(splits.items()):
        found = [split["prevalence"][label] for label in labels]
        shares = [np.nan if share is None else 100 * share for share in found]
        axes.barh(
            positions + (1 - i) * 0.27, shares, 0.27, label=f"{name} (n = {split['n']:,})",
            color=COLOURS[i],
        )  # fmt: skip
    positives = splits["train"]["positives"]
    axes.set_yticks(positions, [f"{short(label)}  ({positives[label]:,})" for label in labels])
    axes.set_xlabel("Prevalence (% of known labels); in parentheses: positive training images")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    finish(figure, "Prevalence of findings by split", origin, path)


def sample_images(split: Split, origin: Origin, path: Path) -> None:
    """Two training images without a finding and two of every label."""
    groups: list[tuple[str, npt.NDArray[np.int64]]] = [
        ("no finding", np.flatnonzero((split.labels == 0).all(axis=1)))
    ]
    groups += [
        (name, np.flatnonzero(y == 1)) for name, y in zip(split.names, split.labels.T, strict=True)
    ]
    n_rows = -(-len(groups) // 4)
    figure = Figure(figsize=(12, 2.05 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, 8)
    for ax in axes.flat:
        ax.axis("off")
    cells = iter(axes.flat)
    for name, indices in groups:
        for index in indices[:2]:
            ax = next(cells)
            ax.imshow(split.images[index], cmap="gray", vmin=0, vmax=255)
            ax.set_title(f"{short(name)}\n#{index}", fontsize=8)
    finish(figure, "Training images, two per finding", origin, path)

"""Figures of the data."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from cxr.data.splits import Origin, Split
from cxr.labels import LABELS
from cxr.plots.figure import COLOURS, finish


def label_counts(splits: dict[str, Any], origin: Origin, path: Path) -> None:
    """Prevalence of every label in every split, with the number of positive training images."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    order = np.argsort([splits["train"]["prevalence"][label] for label in LABELS])
    positions = np.arange(len(LABELS))
    for i, (name, split) in enumerate(splits.items()):
        shares = [100 * split["prevalence"][LABELS[j]] for j in order]
        axes.barh(
            positions + (1 - i) * 0.27, shares, 0.27, label=f"{name} (n = {split['n']:,})",
            color=COLOURS[i],
        )  # fmt: skip
    counts = [splits["train"]["positives"][LABELS[j]] for j in order]
    axes.set_yticks(
        positions, [f"{LABELS[j]}  ({n:,})" for j, n in zip(order, counts, strict=True)]
    )
    axes.set_xlabel("Prevalence (% of images); in parentheses: positive training images")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    finish(figure, "Prevalence of findings by split", origin, path)


def sample_images(split: Split, origin: Origin, path: Path) -> None:
    """Two training images without a finding and two of every label."""
    figure = Figure(figsize=(12, 8.2), layout="constrained")
    rows: list[tuple[str, npt.NDArray[np.int64]]] = [
        ("no finding", np.flatnonzero(split.labels.sum(axis=1) == 0))
    ]
    rows += [(label, np.flatnonzero(split.labels[:, i])) for i, label in enumerate(LABELS)]
    axes = figure.subplots(4, 8)
    for ax in axes.flat:
        ax.axis("off")
    cells = iter(axes.flat)
    for name, indices in rows:
        for index in indices[:2]:
            ax = next(cells)
            ax.imshow(split.images[index], cmap="gray", vmin=0, vmax=255)
            ax.set_title(f"{name}\n#{index}", fontsize=8)
    finish(figure, "Training images, two per finding", origin, path)

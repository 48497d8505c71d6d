"""Arrays to figures: the only module that imports matplotlib.

Every figure names its data; one made from the phantom says so in capitals.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from cxr.data.splits import Origin, Split
from cxr.labels import LABELS

if TYPE_CHECKING:
    from cxr.training import Epoch  # preprocess draws, too, and does without torch

DPI = 100
# Colours that people with any colour vision tell apart (Okabe & Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#777777"


def label_counts(splits: dict[str, Any], origin: Origin, path: Path) -> None:
    """Prevalence of every label in every split, with the number of positives in training."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    order = np.argsort([splits["train"]["prevalence"][label] for label in LABELS])
    places = np.arange(len(LABELS))
    for i, (name, split) in enumerate(splits.items()):
        shares = [100 * split["prevalence"][LABELS[j]] for j in order]
        axes.barh(
            places + (1 - i) * 0.27, shares, 0.27, label=f"{name}, n = {split['n']:,}",
            color=COLOURS[i],
        )  # fmt: skip
    counts = [splits["train"]["positives"][LABELS[j]] for j in order]
    axes.set_yticks(places, [f"{LABELS[j]}  ({n:,})" for j, n in zip(order, counts, strict=True)])
    axes.set_xlabel("prevalence, % of images   (in brackets: positive training images)")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    _finish(figure, "How often each finding is there", origin, path)


def sample_images(split: Split, origin: Origin, path: Path) -> None:
    """Two training images of every label, and the first ones without a finding."""
    figure = Figure(figsize=(12, 8.2), layout="constrained")
    rows: list[tuple[str, npt.NDArray[np.int64]]] = [
        ("no finding", np.flatnonzero(split.labels.sum(axis=1) == 0))
    ]
    rows += [(label, np.flatnonzero(split.labels[:, i])) for i, label in enumerate(LABELS)]
    axes = figure.subplots(4, 8)
    for ax in axes.flat:
        ax.axis("off")
    cells = iter(axes.flat)
    for name, found in rows:
        for index in found[:2]:
            ax = next(cells)
            ax.imshow(split.images[index], cmap="gray", vmin=0, vmax=255)
            ax.set_title(f"{name}\n#{index}", fontsize=8)
    _finish(figure, "Training images, two of each finding", origin, path)


def learning_curves(
    history: "Sequence[Epoch]", best_epoch: int, model: str, origin: Origin, path: Path
) -> None:
    """Losses, validation AUROC and learning rate by epoch; the kept epoch is marked."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    loss, area, rate = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    epochs = [epoch.epoch for epoch in history]
    loss.plot(epochs, [e.train_loss for e in history], color=COLOURS[0], label="training")
    loss.plot(epochs, [e.val_loss for e in history], color=COLOURS[1], label="validation")
    loss.set_ylabel("binary cross-entropy")
    loss.legend(frameon=False)
    area.plot(epochs, [e.val_macro_auroc for e in history], color=COLOURS[1])
    area.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    area.set_ylabel("validation macro AUROC")
    rate.plot(epochs, [e.lr for e in history], color=GREY)
    rate.set_ylabel("learning rate")
    for ax in (loss, area, rate):
        ax.axvline(best_epoch, color=GREY, linewidth=0.8, linestyle="--")
        ax.set_xlabel("epoch")
        ax.spines[["top", "right"]].set_visible(False)
    best = history[best_epoch - 1].val_macro_auroc
    _finish(figure, f"{model}: epoch {best_epoch} kept, AUROC {best:.3f}", origin, path)


def auroc_by_label(tests: dict[str, Any], origin: Origin, path: Path) -> None:
    """Test AUROC of every label for all models over each other, macro first."""
    figure = Figure(figsize=(8.5, 6.2), layout="constrained")
    axes = figure.subplots()
    names = ["macro", *LABELS]
    for i, (model, test) in enumerate(tests.items()):
        values = [test["macro_auroc"], *(test["labels"][label]["auroc"] for label in LABELS)]
        beside = (i - (len(tests) - 1) / 2) * 0.2  # so that equal values don't hide each other
        defined = [(value, -j - beside) for j, value in enumerate(values) if value is not None]
        axes.scatter(
            [value for value, _ in defined],
            [place for _, place in defined],
            s=46,
            color=COLOURS[i % len(COLOURS)],
            label=model,
            zorder=3,
        )
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    axes.text(0.502, -len(LABELS) - 0.45, "chance", color=GREY, fontsize=8)
    axes.axhline(-0.5, color=GREY, linewidth=0.6)
    positives = next(iter(tests.values()))["labels"]
    ticks = [
        f"{name}  (n = {positives[name]['n_positive']:,})" if name in positives else name
        for name in names
    ]
    axes.set_yticks([-j for j in range(len(names))], ticks)
    axes.set_xlabel("AUROC on test")
    axes.grid(axis="x", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(tests))
    _finish(figure, "AUROC by finding", origin, path)


def grad_cam(
    image: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.uint8],
    probs: npt.NDArray[np.float64],
    thresholds: dict[str, float | None],
    evidence: npt.NDArray[np.float32],
    title: str,
    origin: Origin,
    path: Path,
) -> None:
    """One image, and for each label the Grad-CAM over it beside the raw evidence on its own grid.

    Both share one scale over all labels of the image, so that a strong map looks stronger than a
    weak one; the raw map shows evidence against the label too.

    Parameters
    ----------
    image : uint8 (H, W).
    truth : (L,) of 0 and 1.
    probs : (L,)
    thresholds : by label, None where there is none.
    evidence : (L, h, w), signed.
    """
    # Fixed places: matplotlib's own layout takes most of the time of a sheet with 30 axes.
    figure = Figure(figsize=(13.2, 13))
    axes = figure.subplots(
        5, 6,
        subplot_kw={"xticks": [], "yticks": []},
        gridspec_kw={"left": 0.01, "right": 0.99, "top": 0.92, "bottom": 0.07, "wspace": 0.05,
                     "hspace": 0.22},
    )  # fmt: skip
    axes[0, 0].imshow(image, cmap="gray", vmin=0, vmax=255)
    present = [label for label, y in zip(LABELS, truth, strict=True) if y]
    axes[0, 0].set_title(f"the image\n{', '.join(present) or 'no finding'}", fontsize=9)
    _explain_the_sheet(axes[0, 1])
    scale = float(np.abs(evidence).max()) or 1.0
    for i, label in enumerate(LABELS):
        left, right = axes.flat[2 * i + 2], axes.flat[2 * i + 3]
        overlay, raw = _draw_pair(left, right, image, evidence[i], scale)
        _title_pair(left, right, label, bool(truth[i]), probs[i], thresholds[label], evidence[i])
    for left_edge, shown, label in (
        (0.12, overlay, "Grad-CAM: share of the sheet's strongest evidence"),
        (0.62, raw, "evidence, in units of the logit"),
    ):
        place = figure.add_axes((left_edge, 0.045, 0.26, 0.012))
        bar = figure.colorbar(shown, cax=place, label=label, orientation="horizontal")
        bar.locator = MaxNLocator(5)
    _finish(figure, f"Grad-CAM: {title}", origin, path)


def _draw_pair(
    left: Axes,
    right: Axes,
    image: npt.NDArray[np.uint8],
    evidence: npt.NDArray[np.float32],
    scale: float,
) -> tuple[AxesImage, AxesImage]:
    extent = (0, image.shape[1], image.shape[0], 0)
    left.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent)
    share = np.maximum(evidence, 0) / scale
    overlay = left.imshow(
        share,
        cmap="inferno",
        vmin=0,
        vmax=1,
        alpha=0.8 * np.sqrt(share),  # no evidence leaves the image as it is
        extent=extent,
        interpolation="bilinear",
    )
    raw = right.imshow(
        evidence, cmap="RdBu_r", vmin=-scale, vmax=scale, extent=extent, interpolation="nearest"
    )
    return overlay, raw


def _title_pair(
    left: Axes,
    right: Axes,
    label: str,
    truth: bool,
    prob: float,
    threshold: float | None,
    evidence: npt.NDArray[np.float32],
) -> None:
    cut = "no threshold" if threshold is None else f"cut {threshold:.3f}"
    colour = COLOURS[1] if truth else "black"
    left.set_title(
        f"{label}: {'yes' if truth else 'no'}\np = {prob:.3f}, {cut}", fontsize=9, color=colour
    )
    empty = "no positive evidence" if evidence.max() <= 0 else f"up to {evidence.max():+.2g}"
    right.set_title(f"{label}, raw\n{empty}", fontsize=9, color=colour)


def _explain_the_sheet(axes: Axes) -> None:
    axes.axis("off")
    axes.text(
        0,
        1,
        "left: Grad-CAM over the image\nright: raw evidence on the\nnetwork's own grid;\n"
        "red speaks for the label,\nblue against it\n\nyes / no: the data's label\n"
        "p: the model's probability\ncut: threshold from validation\n\nNot a medical device.",
        fontsize=8,
        va="top",
        transform=axes.transAxes,
    )


def _finish(figure: Figure, title: str, origin: Origin, path: Path) -> None:
    data = (
        f"PHANTOM: synthetic images, no patients ({origin.name})"
        if origin.is_phantom
        else f"data: {origin.name}"
    )
    figure.suptitle(f"{title}\n{data}", fontsize=11)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})

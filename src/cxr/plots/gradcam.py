"""Sheets of heat maps."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from cxr.data.splits import Origin
from cxr.labels import LABELS
from cxr.plots.figure import COLOURS, finish


def grad_cam(
    image: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.uint8],
    probs: npt.NDArray[np.float64],
    thresholds: npt.NDArray[np.float64],
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
    thresholds : (L,), NaN where there is none.
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
        _title_pair(left, right, label, bool(truth[i]), probs[i], float(thresholds[i]), evidence[i])
    for left_edge, shown, label in (
        (0.12, overlay, "Grad-CAM: share of the sheet's strongest evidence"),
        (0.62, raw, "evidence, in units of the logit"),
    ):
        place = figure.add_axes((left_edge, 0.045, 0.26, 0.012))
        bar = figure.colorbar(shown, cax=place, label=label, orientation="horizontal")
        bar.locator = MaxNLocator(5)
    finish(figure, f"Grad-CAM: {title}", origin, path)


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
    threshold: float,
    evidence: npt.NDArray[np.float32],
) -> None:
    cut = "no threshold" if np.isnan(threshold) else f"cut {threshold:.3f}"
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

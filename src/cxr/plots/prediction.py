"""A user's image with a model's maps over it, at the resolution of the image."""

from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from cxr.plots.figure import DPI

# In pixels for panels of 300 px; they scale with the image, so that text stays readable.
PANEL, FONT, TITLE, BAR, GAP = 300, 8, 48, 56, 6


def overlays(
    grey: npt.NDArray[np.uint8],
    attribution: npt.NDArray[np.float32],
    titles: list[str],
    title: str,
    path: Path | IO[bytes],
) -> None:
    """The image, followed by the image with each map over it, all maps on one scale.

    Parameters
    ----------
    grey : (H, W).
    attribution : (K, h, w), signed; only positive values are shown.
    titles : titles of the maps.
    title : title of the image.
    """
    height, width = grey.shape
    unit = max(height, width, PANEL) / PANEL
    wide = max(width, PANEL)
    columns = 1 + len(attribution)
    size = np.array(
        [columns * wide + (columns - 1) * GAP * unit, height + (TITLE + BAR) * unit]
    )  # in pixels
    figure = Figure(figsize=tuple(size / DPI))
    scale = float(np.maximum(attribution, 0).max(initial=0)) or 1.0
    longer = max(height, width)
    left, top = (width - longer) / 2, (height - longer) / 2  # the model's input is a padded square
    square = (left, left + longer, top + longer, top)
    for i, caption in enumerate([title, *titles]):
        corner = (i * (wide + GAP * unit) + (wide - width) / 2, BAR * unit)
        axes = figure.add_axes((*(corner / size), width / size[0], height / size[1]))
        axes.axis("off")
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
        if i > 0:
            share = np.maximum(attribution[i - 1], 0) / scale
            shown = axes.imshow(
                share, cmap="inferno", vmin=0, vmax=1, alpha=0.7 * np.sqrt(share),
                extent=square, interpolation="bilinear",
            )  # fmt: skip
            caption += "" if share.max() > 0 else "\nno positive attribution"
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_title(caption, fontsize=FONT * unit * 72 / DPI, parse_math=False)
    strip = figure.add_axes((0.3, 34 * unit / size[1], 0.4, 9 * unit / size[1]))
    bar = figure.colorbar(shown, cax=strip, orientation="horizontal")
    bar.set_label(
        f"Positive attribution relative to its maximum ({scale:.2g} logit). Not a medical device.",
        fontsize=(FONT - 1) * unit * 72 / DPI,
    )
    bar.ax.tick_params(labelsize=(FONT - 2) * unit * 72 / DPI)
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})

"""A grey image at its original resolution, and the assumptions made to read it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr.errors import CxrError
from cxr.params import Fit

Grey = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# What a file may leave unspecified; docs/images.md has a row for each.
Topic = Literal[
    "window", "inverted", "padding", "depth", "alpha", "colour", "modality", "body part", "tags"
]

LEAST_SIDE, MOST_SIDE = 28, 10_000  # pixels
MOST_PIXELS = 2**26  # four times the largest radiographs; half a gigabyte in double precision
OUTLIERS = 0.001  # fraction of pixels cut at each end: hot pixels and burnt-in marks


@dataclass
class Notes:
    """Assumptions made to read a file, by topic, and warnings that a person should check."""

    assumed: dict[Topic, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def assume(self, topic: Topic, text: str) -> None:
        self.assumed[topic] = text

    def warn(self, topic: Topic, text: str) -> None:
        self.assume(topic, text)
        self.warnings.append(text)


@dataclass(frozen=True)
class Picture:
    """One grey image, (H, W); dense tissue is white."""

    path: Path
    grey: Grey
    notes: Notes = field(default_factory=Notes)

    def square(self, side: int, resampling: str, fit: Fit) -> Grey:
        """Make the image square and resize it to (side, side).

        Parameters
        ----------
        resampling : Pillow's name of the filter that the training images were resized with.
        fit : pad with black or crop at the longer sides, which both keep the aspect ratio, or
            stretch.
        """
        height, width = self.grey.shape
        grey = self.grey
        if fit == "pad" and height != width:
            grey = np.zeros((max(height, width),) * 2, np.uint8)
            top, left = (len(grey) - height) // 2, (len(grey) - width) // 2
            grey[top : top + height, left : left + width] = self.grey
        elif fit == "crop":
            shorter = min(height, width)
            top, left = (height - shorter) // 2, (width - shorter) // 2
            grey = grey[top : top + shorter, left : left + shorter]
        image = Image.fromarray(grey)
        return np.asarray(image.resize((side, side), Image.Resampling[resampling.upper()]))


def check_size(path: Path, width: int, height: int) -> None:
    """CxrError if an image would need too much memory; called before any is allocated."""
    if max(width, height) > MOST_SIDE:
        raise CxrError(f"{path} has {width} x {height} pixels; the limit is {MOST_SIDE:,} per side")
    if width * height > MOST_PIXELS:
        raise CxrError(f"{path} has {width * height:,} pixels; the limit is {MOST_PIXELS:,}")


def own_range(values: Doubles, excluded: Mask | None = None) -> tuple[float, float]:
    """The lowest and highest value of an image without the most extreme 0.1% at each end.

    Parameters
    ----------
    values : (H, W).
    excluded : mask of pixels that are not part of the image, (H, W).
    """
    visible = values[np.isfinite(values) & (True if excluded is None else ~excluded)]
    low = float(np.quantile(visible, OUTLIERS, method="higher"))
    high = float(np.quantile(visible, 1 - OUTLIERS, method="lower"))
    return (low, high) if low < high else (float(visible.min()), float(visible.max()))


def to_grey(values: Doubles, low: float, high: float) -> Grey:
    """Scale values from `low`..`high` to grey levels 0..255; values outside are clipped."""
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.asarray(np.rint(np.nan_to_num(share).clip(0, 1) * 255), np.uint8)

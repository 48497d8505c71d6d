"""A grey image at its original resolution, and the assumptions made to read it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr.errors import CxrError

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

    def square(self, side: int, resampling: str) -> Grey:
        """Resize to (side, side) after padding to a square with black, to keep the aspect ratio.

        Parameters
        ----------
        resampling : Pillow's name of the filter that the training images were resized with.
        """
        height, width = self.grey.shape
        longer = max(height, width)
        padded = np.zeros((longer, longer), np.uint8)
        top, left = (longer - height) // 2, (longer - width) // 2
        padded[top : top + height, left : left + width] = self.grey
        image = Image.fromarray(padded)
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


def n_grey_values(grey: Grey) -> int:
    return int(np.count_nonzero(np.bincount(grey.ravel(), minlength=256)))

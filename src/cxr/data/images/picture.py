"""A grey image at its own resolution, and what was assumed to make it one."""

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

# What a file can leave open; docs/images.md has a row for each.
Topic = Literal[
    "window", "inverted", "padding", "depth", "alpha", "colour", "modality", "body part", "tags"
]

LEAST_SIDE, MOST_SIDE = 28, 10_000  # pixels
MOST_PIXELS = 2**26  # four times the sharpest radiographs; in double precision half a gigabyte
OUTLIERS = 0.001  # of the pixels at each end of a range: hot pixels and burnt-in marks


@dataclass
class Notes:
    """What was assumed to read a file, by topic, and which of it a person should look at."""

    assumed: dict[Topic, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def assume(self, topic: Topic, text: str) -> None:
        self.assumed[topic] = text

    def warn(self, topic: Topic, text: str) -> None:
        self.assume(topic, text)
        self.warnings.append(text)


@dataclass(frozen=True)
class Picture:
    """One grey image, (H, W), white for dense."""

    path: Path
    grey: Grey
    notes: Notes = field(default_factory=Notes)

    def square(self, side: int, resampling: str) -> Grey:
        """Brought to (side, side): padded with black to a square, so that no chest is stretched.

        Parameters
        ----------
        resampling : Pillow's name of the filter with which the training images were made.
        """
        height, width = self.grey.shape
        longer = max(height, width)
        padded = np.zeros((longer, longer), np.uint8)
        top, left = (longer - height) // 2, (longer - width) // 2
        padded[top : top + height, left : left + width] = self.grey
        image = Image.fromarray(padded)
        return np.asarray(image.resize((side, side), Image.Resampling[resampling.upper()]))


def check_size(path: Path, width: int, height: int) -> None:
    """CxrError where an image would take too much memory; before any is taken."""
    if max(width, height) > MOST_SIDE:
        raise CxrError(
            f"{path} has {width} x {height} pixels; at most {MOST_SIDE:,} a side are read"
        )
    if width * height > MOST_PIXELS:
        raise CxrError(f"{path} has {width * height:,} pixels; at most {MOST_PIXELS:,} are read")


def own_range(values: Doubles, hidden: Mask | None = None) -> tuple[float, float]:
    """The lowest and the highest value of an image, a thousandth of its pixels at each end apart.

    Parameters
    ----------
    values : (H, W).
    hidden : pixels that are not part of the image.
    """
    seen = values[np.isfinite(values) & (True if hidden is None else ~hidden)]
    low = float(np.quantile(seen, OUTLIERS, method="higher"))
    high = float(np.quantile(seen, 1 - OUTLIERS, method="lower"))
    return (low, high) if low < high else (float(seen.min()), float(seen.max()))


def to_grey(values: Doubles, low: float, high: float) -> Grey:
    """Values from `low` to `high` as grey levels from 0 to 255; what lies outside is cut off."""
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.asarray(np.rint(np.nan_to_num(share).clip(0, 1) * 255), np.uint8)


def n_grey_values(grey: Grey) -> int:
    return int(np.count_nonzero(np.bincount(grey.ravel(), minlength=256)))

"""Out-of-distribution check: is an image shaped and exposed like the training images?

Each image's exposed field, without a black border, is averaged to SIDE x SIDE cells. Checked are

- brightness: the median cell, in grey values;
- contrast: the standard deviation of the cells, in grey values;
- shape: the Mahalanobis distance of the standardised cells from those of the training images (Lee
  et al., "A simple unified framework for detecting out-of-distribution samples", 2018), with a
  ridge on their covariance (Friedman, "Regularized discriminant analysis", 1989).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles, Flags, Floats

Images = npt.NDArray[np.uint8]

BATCH = 256  # images; 150 MB at 224 pixels
PIXELS = 28  # side at which the field is found, so that the image's size hardly matters
FIELD = 0.1  # of the largest grey value; a row or column with no brighter pixel is border
SIDE = 7  # cells per row and column
RIDGE = 0.03  # added to the variance of each standardised cell, which is at most about 1
SHAPE_RATIO = 2.0  # limit, in medians of the validation images
BRIGHTNESS_SD, CONTRAST_SD = 2.5, 3.0  # limits, in standard deviations of the training images
LIMITS = ("max_shape", "min_brightness", "max_brightness", "min_contrast")
FLAT = 1.0  # grey values; an image with less contrast has no shape


@dataclass(frozen=True)
class OodScores:
    """How like the training images one image is, and a warning for each way in which it is not."""

    shape: float
    brightness: float
    contrast: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class OodReference:
    """Shape and exposure of the training images; C = SIDE * SIDE cells."""

    mean: Doubles  # (C,), of the standardised cells
    whitening: Doubles  # (C, C), lower triangle L; L @ L.T is the inverse of their covariance
    max_shape: float
    min_brightness: float
    max_brightness: float
    min_contrast: float

    @classmethod
    def of(cls, train: Images, val: Images) -> "OodReference":
        """Fit to images, uint8 (N, H, W); `val` only sets the limit of the shape score."""
        cells, brightness, contrast = _describe(train)
        mean = cells.mean(axis=0)
        covariance = (cells - mean).T @ (cells - mean) / len(cells) + RIDGE * np.eye(len(mean))
        whitening = np.linalg.cholesky(np.linalg.inv(covariance))
        margin = BRIGHTNESS_SD * brightness.std()
        return cls(
            mean,
            whitening,
            max_shape=SHAPE_RATIO * float(np.median(_distance(_describe(val)[0], mean, whitening))),
            min_brightness=float(brightness.mean() - margin),
            max_brightness=float(brightness.mean() + margin),
            min_contrast=max(FLAT, float(contrast.mean() - CONTRAST_SD * contrast.std())),
        )

    def check(self, images: Images) -> list[OodScores]:
        """Check images, uint8 (N, H, W)."""
        cells, *exposure = _describe(images)
        scores = np.stack([_distance(cells, self.mean, self.whitening), *exposure], axis=1)
        return [OodScores(s, b, c, self._warnings(s, b, c)) for s, b, c in scores.tolist()]

    def _warnings(self, shape: float, brightness: float, contrast: float) -> tuple[str, ...]:
        low, high, least = self.min_brightness, self.max_brightness, self.min_contrast
        checks = [
            (shape <= self.max_shape, f"shape: distance {shape:.1f}, at most {self.max_shape:.1f}"),
            (brightness >= low, f"too dark: brightness {brightness:.0f}, at least {low:.0f}"),
            (brightness <= high, f"too bright: brightness {brightness:.0f}, at most {high:.0f}"),
            (contrast >= least, f"too flat: contrast {contrast:.0f}, at least {least:.0f}"),
        ]
        return tuple(
            f"unlike the training images, {says} expected" for holds, says in checks if not holds
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"mean": self.mean.tolist(), "whitening": self.whitening.tolist()}

    @classmethod
    def from_json(cls, content: Any) -> "OodReference":
        """The reference that `as_json` wrote; LookupError, TypeError or ValueError if invalid."""
        mean, whitening = (np.array(content[key], np.float64) for key in ("mean", "whitening"))
        if mean.shape != (SIDE**2,) or whitening.shape != (SIDE**2, SIDE**2):
            raise ValueError(f"the reference does not have {SIDE} x {SIDE} cells")
        return cls(mean, whitening, *(float(content[key]) for key in LIMITS))


def _distance(cells: Doubles, mean: Doubles, whitening: Doubles) -> Doubles:
    return np.asarray(np.linalg.norm((cells - mean) @ whitening, axis=1), np.float64)


def _describe(images: Images) -> tuple[Doubles, Doubles, Doubles]:
    """Cells (N, C) with mean 0 and standard deviation 1, brightness (N,) and contrast (N,)."""
    parts = [_cells(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    cells = np.concatenate([np.empty((0, SIDE**2)), *parts])
    contrast = cells.std(axis=1)
    standardised = (cells - cells.mean(axis=1)[:, None]) / np.maximum(contrast, FLAT)[:, None]
    return standardised, np.median(cells, axis=1), contrast


def _cells(images: Images) -> Doubles:
    small = _average(images.astype(np.float64), np.ones(images.shape, np.bool_), PIXELS)
    field = small > FIELD * small.max(axis=(1, 2), keepdims=True)
    return _average(small, field, SIDE).reshape(len(images), -1)


def _average(images: Floats, mask: Flags, side: int) -> Doubles:
    """Area averages (N, side, side) of the smallest rectangle around each mask (N, H, W)."""
    rows, columns = (_weights(np.any(mask, axis=axis), side) for axis in (2, 1))
    return np.asarray(rows @ images @ columns.transpose(0, 2, 1), np.float64)


def _weights(mask: Flags, side: int) -> Doubles:
    """Share of each pixel (N, L) in `side` equal parts of first..last of a mask: (N, side, L)."""
    lit = mask | ~np.any(mask, axis=1, keepdims=True)  # all of a black image
    start = lit.argmax(axis=1)[:, None, None]
    stop = mask.shape[1] - lit[:, ::-1].argmax(axis=1)[:, None, None]
    size = (stop - start) / side
    begin = start + size * np.arange(side)[:, None]
    pixel = np.arange(mask.shape[1])
    overlap = np.minimum(begin + size, pixel + 1) - np.maximum(begin, pixel)
    return np.asarray(np.maximum(overlap, 0) / size, np.float64)

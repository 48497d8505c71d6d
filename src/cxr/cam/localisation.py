"""Localisation measures of maps: the pointing game, and the energy inside the sign.

The ground truth is the fraction of each cell of the map's grid that the sign (mask or box) covers.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, bootstrap

from cxr.arrays import Doubles

Maps = npt.NDArray[np.float32]

CHUNK = 64  # masks at a time: 26 MB in double precision at 224 px


@dataclass(frozen=True)
class LocalisationScores:
    """Localisation of N maps, each (N,). The centre and chance baselines ignore the image."""

    hit: npt.NDArray[np.bool_]  # the cell with the highest attribution touches the sign
    energy: Doubles  # fraction of the positive attribution inside the sign
    centre_hit: npt.NDArray[np.bool_]  # the central cell touches the sign
    chance_hit: Doubles  # probability that a random cell touches the sign
    chance_energy: Doubles  # energy of a uniform map: the fraction of the image that is the sign
    empty: npt.NDArray[np.bool_]  # no positive attribution; counts as a miss

    def select(self, mask: npt.NDArray[np.bool_]) -> "LocalisationScores":
        """The maps where `mask` (N,) is true."""
        values = {field.name: getattr(self, field.name)[mask] for field in fields(self)}
        return LocalisationScores(**values)


def cover_of_masks(masks: npt.NDArray[np.bool_], grid: tuple[int, int]) -> Doubles:
    """Fraction of each cell inside a mask: (N, H, W) -> (N, h, w)."""
    rows, columns = (
        _overlap(np.arange(pixels), np.arange(1, pixels + 1), pixels, cells)
        for pixels, cells in zip(masks.shape[1:], grid, strict=True)
    )
    cover = np.empty((len(masks), *grid))
    for start in range(0, len(masks), CHUNK):
        chunk = slice(start, start + CHUNK)
        cover[chunk] = rows @ masks[chunk].astype(np.float64) @ columns.T
    return cover


def cover_of_boxes(boxes: Doubles, side: float, grid: tuple[int, int]) -> Doubles:
    """Fraction of each cell inside a box: (N, 4) of x, y, width, height in 0..side -> (N, h, w)."""
    x, y, width, height = boxes.T
    rows = _overlap(y, y + height, side, grid[0])  # (h, N)
    columns = _overlap(x, x + width, side, grid[1])
    return np.asarray(np.einsum("hn,wn->nhw", rows, columns), np.float64)


def locate(attribution: Maps, cover: Doubles) -> LocalisationScores:
    """Compare maps (N, h, w) to the fraction of each cell that the sign covers (N, h, w)."""
    n, height, width = attribution.shape
    flat, inside = (
        np.maximum(attribution, 0).reshape(n, height * width),
        cover.reshape(n, height * width),
    )
    highest, total = flat.argmax(axis=1), flat.sum(axis=1)
    touched = inside > 1e-9  # smaller fractions are rounding errors
    empty = total <= 0
    with np.errstate(invalid="ignore"):
        energy = np.where(empty, 0, (flat * inside).sum(axis=1) / total)
    return LocalisationScores(
        hit=touched[np.arange(n), highest] & ~empty,
        energy=energy,
        centre_hit=touched[:, (height // 2) * width + width // 2],
        chance_hit=touched.mean(axis=1),
        chance_energy=inside.mean(axis=1),
        empty=empty,
    )


def describe(located: LocalisationScores, seed: int) -> dict[str, Any]:
    """Means with 95% confidence intervals and baselines, for JSON; None if there are no images.

    Wilson's interval for the fraction of hits, the bootstrap over images for the energy.
    """
    n = len(located.hit)
    if n == 0:
        return {"n": 0, "pointing": None, "pointing_ci": None, "energy": None, "energy_ci": None,
                "pointing_centre": None, "pointing_chance": None, "energy_chance": None,
                "empty": 0}  # fmt: skip
    return {
        "n": n,
        "pointing": float(located.hit.mean()),
        "pointing_ci": share_interval(located.hit),
        "pointing_centre": float(located.centre_hit.mean()),
        "pointing_chance": float(located.chance_hit.mean()),
        "energy": float(located.energy.mean()),
        "energy_ci": mean_interval(located.energy, seed),
        "energy_chance": float(located.chance_energy.mean()),
        "empty": int(located.empty.sum()),
    }


def share_interval(hits: npt.NDArray[np.bool_]) -> list[float]:
    """95% confidence interval of a proportion (Wilson, 1927)."""
    ci = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return [float(ci.low), float(ci.high)]


def mean_interval(values: Doubles, seed: int) -> list[float] | None:
    """95% bootstrap percentile interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    result = bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed)
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


def _overlap(start: npt.ArrayLike, stop: npt.ArrayLike, length: float, cells: int) -> Doubles:
    """Fraction of each of `cells` equal parts of 0..length that each range covers: (cells, N)."""
    edges = np.linspace(0, length, cells + 1)[:, None]
    covered = np.minimum(edges[1:], np.asarray(stop)) - np.maximum(edges[:-1], np.asarray(start))
    shares = np.maximum(covered, 0) / (length / cells)
    return np.asarray(shares, np.float64)

"""Whether maps point to where the sign is: the pointing game, and the energy inside.

Truth is the share of each cell of the map's grid that the sign covers: of a mask or of a box.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, bootstrap

from cxr.arrays import Doubles

Maps = npt.NDArray[np.float32]

CHUNK = 64  # masks: at 224 pixels 26 MB in double precision


@dataclass(frozen=True)
class Located:
    """Maps held against the truth: (N,) each. The baselines see no image."""

    hit: npt.NDArray[np.bool_]  # the highest cell touches the sign
    energy: Doubles  # share of the attribution that lies inside it
    centre_hit: npt.NDArray[np.bool_]  # of the middle cell
    chance_hit: Doubles  # of a cell at random
    chance_energy: Doubles  # of a map that is equal everywhere: the sign's share of the image
    empty: npt.NDArray[np.bool_]  # nothing speaks for the label; counts as a miss

    def only(self, chosen: npt.NDArray[np.bool_]) -> "Located":
        """Some of the maps."""
        return Located(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})


def cover_of_masks(masks: npt.NDArray[np.bool_], grid: tuple[int, int]) -> Doubles:
    """Share of each cell inside a mask: (N, H, W) -> (N, h, w)."""
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
    """Share of each cell inside a box: (N, 4) of x, y, width, height in 0..side -> (N, h, w)."""
    x, y, width, height = boxes.T
    rows = _overlap(y, y + height, side, grid[0])  # (h, N)
    columns = _overlap(x, x + width, side, grid[1])
    return np.asarray(np.einsum("hn,wn->nhw", rows, columns), np.float64)


def locate(attribution: Maps, cover: Doubles) -> Located:
    """Hold maps (N, h, w) against the share of each cell that the sign covers (N, h, w)."""
    n, height, width = attribution.shape
    flat, inside = (
        np.maximum(attribution, 0).reshape(n, height * width),
        cover.reshape(n, height * width),
    )
    highest, total = flat.argmax(axis=1), flat.sum(axis=1)
    touched = inside > 1e-9  # of a cell; less is rounding
    empty = total <= 0
    with np.errstate(invalid="ignore"):
        energy = np.where(empty, 0, (flat * inside).sum(axis=1) / total)
    return Located(
        hit=touched[np.arange(n), highest] & ~empty,
        energy=energy,
        centre_hit=touched[:, (height // 2) * width + width // 2],
        chance_hit=touched.mean(axis=1),
        chance_energy=inside.mean(axis=1),
        empty=empty,
    )


def describe(located: Located, seed: int) -> dict[str, Any]:
    """Means with 95 % intervals beside the baselines, as JSON holds them; None without an image.

    Wilson's interval for shares of hits, the bootstrap over images for the energy.
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
    """95 % interval of a share (Wilson, 1927)."""
    ci = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return [float(ci.low), float(ci.high)]


def mean_interval(values: Doubles, seed: int) -> list[float] | None:
    """95 % percentile interval of a mean by the bootstrap; None of fewer than two values."""
    if len(values) < 2:
        return None
    found = bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed)
    )
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def _overlap(start: npt.ArrayLike, stop: npt.ArrayLike, length: float, cells: int) -> Doubles:
    """Share of each of `cells` equal parts of 0..length that each range covers: (cells, N)."""
    edges = np.linspace(0, length, cells + 1)[:, None]
    covered = np.minimum(edges[1:], np.asarray(stop)) - np.maximum(edges[:-1], np.asarray(start))
    shares = np.maximum(covered, 0) / (length / cells)
    return np.asarray(shares, np.float64)

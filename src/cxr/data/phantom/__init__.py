"""A synthetic ChestMNIST: grey chest X-rays with the 14 findings where they occur in reality.

Its patients have one to several images, a sex and an age, and each image a view (PA or AP). They
correlate with the findings as in NIH's table, and show: breasts, the prominence of the aorta with
age, a wider heart in AP views.

Image i of a split depends only on (seed, split, i, size). Everything except the pixel noise is
drawn in units independent of size, so index i shows the same chest at 28 and at 224 pixels.

The modules in reading order: `copula` draws the labels and `draws` all other random parameters,
`anatomy` renders the healthy chest, `signs` the findings, and `film` combines and exposes them.
This module renders ranges of images. `shapes` has the shared drawing primitives.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.data.phantom.draws import BLOCK, Draws, draw
from cxr.data.phantom.film import expose, picture
from cxr.data.phantom.signs import LOCAL_SIGNS
from cxr.data.splits import SPLITS
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST, UNKNOWN

__all__ = ["ATTRIBUTES", "LOCAL_SIGNS", "Batch", "masks", "render"]

ATTRIBUTES = ("sex", "age", "view")
_MIN_SIZE, _MAX_SIZE = 28, 224
_PART_PIXELS = 128 * 28 * 28  # per batch: bounds memory at 224 px, fits the cache at 28 px
_MASK_SHARE = 0.25  # of the largest change of a pixel; pixels that change more are in the mask


@dataclass(frozen=True)
class Batch:
    """Images and what is known of them."""

    images: npt.NDArray[np.uint8]  # (N, S, S)
    labels: npt.NDArray[np.int8]  # (N, 14), 0, 1 or UNKNOWN
    patients: npt.NDArray[np.str_]  # (N,)
    attributes: npt.NDArray[np.str_]  # (N, 3), see ATTRIBUTES


def render(
    seed: int, split: str, start: int, stop: int, size: int, uncertain: float = 0.0
) -> Batch:
    """Images start..stop of a split.

    Parameters
    ----------
    seed : 0 or more; each seed gives a different data set
    split : "train", "val" or "test"
    start, stop : the range of indices, 0 <= start <= stop; splitting it does not change the images
    size : side in pixels, 28 to 224
    uncertain : share of the labels that are unknown, 0 to 1, drawn at random

    Raises
    ------
    CxrError : if a value is outside its range
    """
    _check(seed, split, start, stop, size)
    images = np.empty((stop - start, size, size), np.uint8)
    labels = np.empty((stop - start, len(CHESTMNIST)), np.int8)
    patients = np.empty(stop - start, f"U{len(_patient(split, stop, BLOCK))}")
    attributes = np.empty((stop - start, len(ATTRIBUTES)), "U2")
    for part in _parts(seed, split, start, stop, size):
        film, _ = picture(part.draws, size)
        images[part.into] = expose(film, part.draws.anatomy, part.noise)[part.keep]
        kept = part.draws.take(part.keep)
        labels[part.into] = np.where(kept.doubt < uncertain, UNKNOWN, kept.labels)
        patients[part.into] = [_patient(split, part.block, n) for n in kept.patient.tolist()]
        sex, view = np.where(kept.is_female, "F", "M"), np.where(kept.is_ap, "AP", "PA")
        attributes[part.into] = np.stack([sex, kept.age.astype(str), view], axis=1)
    return Batch(images, labels, patients, attributes)


def _patient(split: str, block: int, number: int) -> str:
    return f"{split}-{block}-{number}"


def masks(seed: int, split: str, start: int, stop: int, size: int) -> npt.NDArray[np.bool_]:
    """Masks of the findings in images start..stop; parameters and errors as for `render`.

    A pixel belongs to a finding if removing the finding changes the noise-free film there by at
    least a quarter of the largest change. Cardiomegaly's mask is the whole heart, emphysema's both
    lungs.

    Returns
    -------
    bool array of shape (stop - start, 14, size, size); all False for absent labels
    """
    _check(seed, split, start, stop, size)
    shown = np.empty((stop - start, len(CHESTMNIST), size, size), np.bool_)
    for part in _parts(seed, split, start, stop, size):
        shown[part.into] = _masks(part.draws, size)[part.keep]
    return shown


def _masks(draws: Draws, size: int) -> npt.NDArray[np.bool_]:
    film, organs = picture(draws, size)
    shown = np.zeros((len(film), len(CHESTMNIST), size, size), np.bool_)
    for k, label in enumerate(CHESTMNIST):
        rows = draws.positive(label)
        if label in organs:
            shown[rows, k] = organs[label][rows] > 0.5
        elif rows.size:
            healed, _ = picture(draws.take(rows).without(label), size)
            change = np.abs(film[rows] - healed)
            shown[rows, k] = change > _MASK_SHARE * change.max(axis=(1, 2), keepdims=True)
    return shown


@dataclass(frozen=True)
class _Part:
    """Images that are always rendered together, even if only some are requested."""

    block: int
    draws: Draws
    noise: np.random.Generator
    keep: slice  # requested images within the part
    into: slice  # their position in the output


def _parts(seed: int, split: str, start: int, stop: int, size: int) -> Iterator[_Part]:
    """The parts that cover start..stop; borders, and so noise, are the same for any range."""
    n_images = _PART_PIXELS // size**2
    step = 1 << (n_images.bit_length() - 1)  # a power of two, so that it divides the block
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        draws = draw(seed, split, block)
        for offset in range(0, BLOCK, step):
            first = block * BLOCK + offset
            if start - step < first < stop:
                yield _Part(
                    block,
                    draws.take(slice(offset, offset + step)),
                    np.random.default_rng([seed, SPLITS.index(split), block, offset, size]),
                    keep=slice(max(start - first, 0), stop - first),
                    into=slice(max(first - start, 0), first + step - start),
                )


def _check(seed: int, split: str, start: int, stop: int, size: int) -> None:
    if not _MIN_SIZE <= size <= _MAX_SIZE:
        raise CxrError(f"phantom size {size} is outside {_MIN_SIZE}..{_MAX_SIZE} pixels")
    if split not in SPLITS:
        raise CxrError(f"phantom split {split!r} is not one of {', '.join(SPLITS)}")
    if not 0 <= start <= stop:
        raise CxrError(f"phantom range {start}..{stop} is invalid; expected 0 <= start <= stop")
    if seed < 0:
        raise CxrError(f"phantom seed {seed} is negative; use 0 or more")

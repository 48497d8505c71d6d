"""Known locations of findings: masks of the phantom, or boxes drawn by radiologists."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles
from cxr.cam.localisation import cover_of_boxes, cover_of_masks
from cxr.data import phantom
from cxr.data.boxes import SIDE, Box, rows_by_name
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST

Indices = npt.NDArray[np.int64]

CHUNK = 64  # images whose masks are rendered together


@dataclass(frozen=True)
class Truth:
    """Findings with known locations: K pairs of image and label."""

    source: str
    image: Indices  # (K,) rows of the split
    label: Indices  # (K,)
    cover: Callable[[tuple[int, int]], Doubles]  # fraction of each grid cell inside: (K, h, w)

    def select(self, mask: npt.NDArray[np.bool_]) -> "Truth":
        """The pairs where `mask` (K,) is true."""
        return Truth(
            self.source, self.image[mask], self.label[mask], lambda grid: self.cover(grid)[mask]
        )


def of_phantom(split: Split, name: str, n: int, seed: int) -> Truth:
    """The masks of a phantom's first `n` images; CxrError if the images have another seed.

    Parameters
    ----------
    split : the images on disk, which must be those generated from the seed.
    name : name of the split.
    """
    n, size = min(n, len(split.labels)), split.images.shape[1]
    if (phantom.render(seed, name, 0, 1, size).images[0] != split.images[0]).any():
        raise CxrError(f"data/ was not generated from seed {seed}; run `dvc repro`")
    image, label = np.nonzero(split.labels[:n] == 1)
    # The phantom does not draw the labels of a companion table.
    is_drawn = np.isin(np.array(split.names)[label], CHESTMNIST)
    image, label = image[is_drawn], label[is_drawn]
    channel = np.array([CHESTMNIST.index(split.names[each]) for each in label], np.int64)
    masks = np.empty((len(image), size, size), np.bool_)
    for start in range(0, n, CHUNK):
        in_chunk = (image >= start) & (image < start + CHUNK)
        chunk = phantom.masks(seed, name, start, min(start + CHUNK, n), size)
        masks[in_chunk] = chunk[image[in_chunk] - start, channel[in_chunk]]
    return Truth("phantom", image, label, lambda grid: cover_of_masks(masks, grid))


def of_boxes(split: Split, boxes: list[Box]) -> Truth:
    """Boxes of the split's images; several boxes of one finding in an image form one region."""
    row_of = rows_by_name(split)
    pairs: dict[tuple[int, int], list[Doubles]] = {}
    for box in boxes:
        for label in set(box.labels).intersection(split.names):
            image, column = row_of.get(box.image), split.names.index(label)
            if image is None or (box.if_positive and split.labels[image, column] != 1):
                continue
            pairs.setdefault((image, column), []).append(box.corners)
    keys = np.array(sorted(pairs), np.int64).reshape(-1, 2)

    def cover(grid: tuple[int, int]) -> Doubles:
        covers = [_cover(pairs[image, label], grid) for image, label in keys.tolist()]
        return np.stack(covers) if covers else np.empty((0, *grid))

    return Truth("boxes", keys[:, 0], keys[:, 1], cover)


def _cover(boxes: list[Doubles], grid: tuple[int, int]) -> Doubles:
    """Fraction of each cell inside the union of the boxes."""
    if len(boxes) == 1:
        return np.asarray(cover_of_boxes(boxes[0][None], SIDE, grid)[0], np.float64)
    mask = np.zeros((1, int(SIDE), int(SIDE)), np.bool_)
    for x, y, width, height in boxes:
        left, top = max(round(x), 0), max(round(y), 0)
        mask[0, top : round(y + height), left : round(x + width)] = True
    return np.asarray(cover_of_masks(mask, grid)[0], np.float64)

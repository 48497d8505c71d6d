"""Where findings are known to be: painted into the phantom, or drawn by radiologists."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr.arrays import Doubles
from cxr.cam.localisation import cover_of_boxes, cover_of_masks
from cxr.data import phantom
from cxr.data.boxes import SIDE, Box
from cxr.data.ids import stem
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.labels import LABELS

Indices = npt.NDArray[np.int64]

CHUNK = 64  # images whose masks are rendered together


@dataclass(frozen=True)
class Truth:
    """Findings of some images, each with the place where it is: K pairs of image and label."""

    source: str
    image: Indices  # (K,) rows of the split
    label: Indices  # (K,)
    cover: Callable[[tuple[int, int]], Doubles]  # share of each cell of a grid inside: (K, h, w)

    def only(self, chosen: npt.NDArray[np.bool_]) -> "Truth":
        """Some of the pairs."""
        return Truth(
            self.source,
            self.image[chosen],
            self.label[chosen],
            lambda grid: self.cover(grid)[chosen],
        )


def of_phantom(split: Split, name: str, n: int, seed: int) -> Truth:
    """The masks of a phantom's first `n` images; CxrError where these are not its images.

    Parameters
    ----------
    split : the images on disk, which must be those that the seed makes.
    name : of the split.
    """
    n, size = min(n, len(split.labels)), split.images.shape[1]
    if (phantom.render(seed, name, 0, 1, size).images[0] != split.images[0]).any():
        raise CxrError(f"the phantom of seed {seed} is not the one in data/; run `dvc repro`")
    image, label = np.nonzero(split.labels[:n])
    masks = np.empty((len(image), size, size), np.bool_)
    for start in range(0, n, CHUNK):
        here = (image >= start) & (image < start + CHUNK)
        shown = phantom.masks(seed, name, start, min(start + CHUNK, n), size)
        masks[here] = shown[image[here] - start, label[here]]
    return Truth("phantom", image, label, lambda grid: cover_of_masks(masks, grid))


def of_boxes(split: Split, boxes: list[Box]) -> Truth:
    """Boxes of the split's images; several of one finding in one image count as one place."""
    if split.ids is None:
        raise CxrError("gradcam.boxes: the data has no ids, so no box can be found an image for")
    row_of: dict[str, int] = {}
    for row, name in enumerate(split.ids):
        if row_of.setdefault(stem(str(name)), row) != row:
            raise CxrError(
                f"gradcam.boxes: several ids of the data end in {stem(str(name))}, so its boxes "
                "are not of one image; give each image a name of its own"
            )
    pairs: dict[tuple[int, int], list[Doubles]] = {}
    for box in boxes:
        if box.image in row_of:
            pair = row_of[box.image], LABELS.index(box.label)
            pairs.setdefault(pair, []).append(box.corners)
    if boxes and not pairs:
        raise CxrError(
            f"gradcam.boxes: none of its images, such as {boxes[0].image}, is in this split, with "
            f"ids such as {split.ids[0]}; give boxes of these images, or null"
        )
    keys = np.array(sorted(pairs), np.int64).reshape(-1, 2)

    def cover(grid: tuple[int, int]) -> Doubles:
        of_pair = [_cover(pairs[image, label], grid) for image, label in keys.tolist()]
        return np.stack(of_pair) if of_pair else np.empty((0, *grid))

    return Truth("boxes", keys[:, 0], keys[:, 1], cover)


def _cover(boxes: list[Doubles], grid: tuple[int, int]) -> Doubles:
    """Share of each cell inside any of some boxes; where they overlap it counts once."""
    if len(boxes) == 1:
        return np.asarray(cover_of_boxes(boxes[0][None], SIDE, grid)[0], np.float64)
    mask = np.zeros((1, int(SIDE), int(SIDE)), np.bool_)
    for x, y, width, height in boxes:
        left, top = max(round(x), 0), max(round(y), 0)
        mask[0, top : round(y + height), left : round(x + width)] = True
    return np.asarray(cover_of_masks(mask, grid)[0], np.float64)

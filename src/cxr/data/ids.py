"""Image ids as users write them: with folders, URLs and file suffixes."""

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

MOST_ID_CHARACTERS = 512  # of an id; in an array each takes the memory of the longest

IdMethod = Literal["id", "stem", "number"]
Ids = npt.NDArray[Any]  # strings, (N,)
Rows = npt.NDArray[np.int64]

FILE_TYPE = re.compile(
    r"\.(png|jpe?g|tiff?|bmp|webp|gif|jp2|dcm|dicom|nii|npy|npz)(\.gz)?$", re.IGNORECASE
)


def same_folders(a: str, b: str) -> bool:
    """Whether two paths may name one file: the folders of one end with those of the other."""
    parts = [re.split(r"[/\\]+", text)[:-1] for text in (a, b)]
    shorter = min(len(each) for each in parts)
    return not shorter or parts[0][-shorter:] == parts[1][-shorter:]


def stem(text: str) -> str:
    """An image's name without folder, URL query and file suffix: `x` for `a\\x.nii.gz`."""
    if "://" in text:
        text = re.split(r"[?#]", text)[0]
    return FILE_TYPE.sub("", re.split(r"[/\\]", text)[-1])


class Pairs(NamedTuple):
    """Rows of the same images in two lists of ids, in the order of the second list."""

    by: IdMethod
    a: Rows
    b: Rows


def pair(a: Ids, b: Ids) -> Pairs:
    """Pair the ids of two lists, each without repeats, that belong to the same images.

    By the ids as written; else by file names without folder and file type, if these are unique in
    both lists; else by integers without leading zeros, if these pair all ids.
    """
    by_id = _same(a, b, "id", str)
    if _is_complete(by_id, a, b):
        return by_id
    by_stem = _same(a, b, "stem", stem)
    by_number = _same(a, b, "number", _number)
    if _is_complete(by_number, a, b) and not _is_complete(by_stem, a, b):
        return by_number
    return by_stem if len(by_stem.a) > len(by_id.a) else by_id


def rows_of(ids: Ids, images: Ids) -> Rows:
    """The row of a table that belongs to each image, (N,); -1 for images without one.

    Parameters
    ----------
    ids : (R,), of the table's rows, without repeats. Those with folders must have the image's.
    images : (N,), the images' ids, which may repeat.
    """
    distinct, inverse = np.unique(images.astype(str), return_inverse=True)
    pairs = pair(ids, distinct)
    both = zip(ids[pairs.a].tolist(), distinct[pairs.b].tolist(), strict=True)
    fits = np.array([same_folders(a, b) for a, b in both], bool)
    row_of = np.full(len(distinct), -1)
    row_of[pairs.b[fits]] = pairs.a[fits]
    return np.asarray(row_of[inverse], np.int64)


def _number(text: str) -> str:
    name = stem(text)
    return (name.lstrip("0") or "0") if name.isdecimal() else name


def _same(a: Ids, b: Ids, by: IdMethod, key: Callable[[str], str]) -> Pairs:
    """Rows with the same keys; none if several ids share a key."""
    empty = np.empty(0, np.int64)
    keys_a, keys_b = ([key(text) for text in ids.tolist()] for ids in (a, b))
    rows = {text: row for row, text in enumerate(keys_a)}
    if len(rows) < len(keys_a) or len(set(keys_b)) < len(keys_b):
        return Pairs(by, empty, empty)
    in_b = np.array([row for row, text in enumerate(keys_b) if text in rows], np.int64)
    return Pairs(by, np.array([rows[keys_b[row]] for row in in_b], np.int64), in_b)


def _is_complete(pairs: Pairs, a: Ids, b: Ids) -> bool:
    return len(pairs.a) == len(a) and len(pairs.b) == len(b)

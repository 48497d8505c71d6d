"""A raw file: three splits in one npz, in ChestMNIST's layout or one that plainly means the same.

`{split}_images` uint8 (N, H, W) and `{split}_labels` (N, 14) of 0 and 1, and optionally
`{split}_ids` and `{split}_patients` (N,), which ChestMNIST itself lacks. Axes of length 1 may come
on top, as in (N, H, W, 1); labels may be of any number's type, ids and patients bytes of UTF-8.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.data.npz import Array, NpyWriter, NpzReader
from cxr.data.splits import SPLITS, Dataset, Origin, Statistics, write_dataset
from cxr.documents import damaged
from cxr.errors import CxrError
from cxr.labels import LABELS

COLUMNS = ("ids", "patients")
SIDES = (8, 1024)  # pixels of an image; more than a network takes here
MISSING = (
    "; save `{split}_images` and `{split}_labels` of each split (train, val, test) with np.savez"
)


def check(path: Path, scratch: Path) -> None:
    """Read every value of a user's file once; CxrError at the first thing that is wrong.

    Only what makes the data unusable is refused here. What makes a result doubtful (duplicates,
    leaks between splits) is found by `quality` and reported.

    Parameters
    ----------
    scratch : folder for temporary files.
    """
    with NpzReader(path, scratch) as reader:
        _check_headers(reader)
        for split in SPLITS:
            _check_labels(reader, split)
            for column in COLUMNS:
                _column(reader, f"{split}_{column}")
            low, high, _ = _range(reader, f"{split}_images")
            if split == "train" and low == high:
                raise CxrError(
                    f"{path}: all pixels of train_images have the value {low}; there is nothing to "
                    "learn from"
                )
            if split == "train" and high == 1:
                raise CxrError(
                    f"{path}: train_images holds only 0 and 1, of 0 to 255; multiply images of 0 "
                    "to 1 by 255 before they become uint8"
                )


def extract(raw: Path, origin: Origin, folder: Path) -> tuple[Dataset, Statistics]:
    """Lay down in `folder` what `check` has found good, or what this pipeline has made itself."""
    try:
        with NpzReader(raw, folder) as reader:
            size = _check_headers(reader)
            n = {split: reader.header(f"{split}_labels").shape[0] for split in SPLITS}
            histograms = {split: _write_split(reader, split, folder) for split in SPLITS}
    except CxrError:
        raise damaged(raw, "it is not as download wrote it") from None
    dataset = Dataset(origin, size, n, LABELS)
    write_dataset(dataset, folder)
    return dataset, _statistics(histograms["train"])


def _check_headers(reader: NpzReader) -> int:
    """Check what the arrays say of themselves; the size of the images in pixels."""
    reader.require((f"{s}_{kind}" for s in SPLITS for kind in ("images", "labels")), MISSING)
    sizes = {_check_header_of_images(reader, split) for split in SPLITS}
    for split in SPLITS:
        _check_other_headers(reader, split)
    if len(sizes) > 1:
        raise CxrError(
            f"{reader.path}: the splits have images of different sizes: {sorted(sizes)}; "
            "resize them to one"
        )
    return sizes.pop()


def _check_header_of_images(reader: NpzReader, split: str) -> int:
    key = f"{split}_images"
    shape, dtype = reader.header(key)
    if dtype != np.uint8:
        raise CxrError(f"{reader.path}: {key} is {dtype}{_conversion(reader, key)}")
    each = _without_ones(shape)
    if len(each) != 2 or each[0] != each[1] or not SIDES[0] <= each[0] <= SIDES[1]:
        raise CxrError(
            f"{reader.path}: {key} has shape {shape}; grey square images are needed, (N, H, H) "
            f"with H of {SIDES[0]} to {SIDES[1]}; {_reshaping(key, each)}"
        )
    if shape[0] == 0:
        raise CxrError(f"{reader.path}: {key} is empty; every split needs images")
    return each[0]


def _check_other_headers(reader: NpzReader, split: str) -> None:
    n = reader.header(f"{split}_images").shape[0]
    for kind in ("labels", *COLUMNS):
        key = f"{split}_{kind}"
        if key not in reader.keys:
            continue
        shape, dtype = reader.header(key)
        if kind == "labels" and dtype.kind not in "uibf":
            raise CxrError(f"{reader.path}: {key} is {dtype}; labels must be numbers, 0 or 1")
        if kind == "labels" and _without_ones(shape) != (len(LABELS),):
            raise CxrError(
                f"{reader.path}: {key} has shape {shape}; {len(LABELS)} labels are needed, "
                f"(N, {len(LABELS)}) in ChestMNIST's order"
            )
        if kind != "labels" and (_without_ones(shape) or dtype.kind not in "iuUS"):
            raise CxrError(
                f"{reader.path}: {key} is {dtype} of shape {shape}; one integer or text per image "
                "is needed, or leave the array out"
            )
        if shape[0] != n:
            raise CxrError(
                f"{reader.path}: {split}_images has {n} rows and {key} has {shape[0]}; "
                "one row per image is needed"
            )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one row, without the axes that hold nothing."""
    return tuple(length for length in shape[1:] if length != 1)


def _conversion(reader: NpzReader, key: str) -> str:
    """How images of another type become uint8, after the range of their values."""
    needed = "; images must be uint8, 0 to 255"
    shape, dtype = reader.header(key)
    if dtype.kind not in "biuf" or 0 in shape:
        return needed
    low, high, n_nan = _range(reader, key)
    found = f" with {n_nan} NaN" if n_nan else f" from {low:g} to {high:g}"
    if not np.isfinite((low, high)).all():
        return f"{found}{needed}; give every pixel a finite value"
    # Differences of small integers would overflow.
    name = key if dtype.kind == "f" else f"{key}.astype(float)"
    name = f"np.nan_to_num({key})" if n_nan else name
    if low >= 0 and high <= 1:
        code = f"({name} * 255).round().astype(np.uint8)"
    elif low >= 0 and 2 < high <= 255:
        code = (
            f"{name}.round().astype(np.uint8)" if dtype.kind == "f" else f"{key}.astype(np.uint8)"
        )
    elif low >= 0 and high > 255 and dtype.kind != "f":  # the upper 8 of 12 or 16 bits
        code = f"({key} >> {int(high).bit_length() - 8}).astype(np.uint8)"
    else:
        code = f"(({name} - {low:g}) / {high - low:g} * 255).round().clip(0, 255).astype(np.uint8)"
    return f"{found}{needed}; convert the images of each split with `{code}`"


def _reshaping(key: str, each: tuple[int, ...]) -> str:
    """How images of another shape become grey squares."""
    if len(each) == 3 and 3 in (each[0], each[2]):
        axis = -1 if each[2] == 3 else 1
        return f"convert colour with `{key}.mean(axis={axis}).round().astype(np.uint8)`"
    return "crop, pad or resize the images"


def _range(reader: NpzReader, key: str) -> tuple[float, float, int]:
    """The least and the greatest value of an array, and how many are NaN."""
    low, high, n_nan = np.inf, -np.inf, 0
    for rows in reader.chunks(key):
        low = min(low, np.fmin.reduce(rows, axis=None).item())
        high = max(high, np.fmax.reduce(rows, axis=None).item())
        n_nan += int(np.isnan(rows).sum()) if rows.dtype.kind == "f" else 0
    return low, high, n_nan


def _check_labels(reader: NpzReader, split: str) -> None:
    key, first, n_wrong, n_rows = f"{split}_labels", "", 0, 0
    for labels in _rows(reader, key, (len(LABELS),)):
        wrong = np.argwhere((labels != 0) & (labels != 1))
        if len(wrong) and not first:
            row, column = wrong[0]
            first = f"{labels[row, column]} at row {n_rows + row}, {LABELS[column]}"
        n_wrong += len(wrong)
        n_rows += len(labels)
    if n_wrong:
        raise CxrError(
            f"{reader.path}: {key} holds {first} ({n_wrong} such value{'s' * (n_wrong > 1)}); "
            "labels must be 0 or 1"
        )


def _rows(reader: NpzReader, key: str, each: tuple[int, ...]) -> Iterator[Array]:
    """An array chunk by chunk, without the axes of length 1."""
    return (rows.reshape(len(rows), *each) for rows in reader.chunks(key))


def _column(reader: NpzReader, key: str) -> Array | None:
    """Ids or patients (N,), bytes as text; None where the file has none."""
    if key not in reader.keys:
        return None
    values = reader.read(key)
    values = values.reshape(len(values))
    if values.dtype.kind != "S":
        return values
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        raise CxrError(
            f"{reader.path}: {key} holds bytes that are not UTF-8; save it with .astype(str)"
        ) from None


def _write_split(reader: NpzReader, split: str, folder: Path) -> npt.NDArray[np.int64]:
    """Stream a split to disk; the histogram of its grey values, exact whatever the chunks."""
    n, *inner = reader.header(f"{split}_images").shape
    size = max(inner)
    histogram = np.zeros(256, np.int64)
    for kind, each in (("images", (size, size)), ("labels", (len(LABELS),))):
        key = f"{split}_{kind}"
        with open(folder / f"{key}.npy", "wb") as file:
            writer = NpyWriter(file, (n, *each), np.uint8)
            for rows in _rows(reader, key, each):
                writer.append(rows)
                if kind == "images":
                    histogram += np.bincount(rows.ravel(), minlength=256)
    for column in COLUMNS:
        values: npt.NDArray[Any] | None = _column(reader, f"{split}_{column}")
        if values is not None:
            np.save(folder / f"{split}_{column}.npy", values, allow_pickle=False)
    return histogram


def _statistics(histogram: npt.NDArray[np.int64]) -> Statistics:
    grey = np.arange(256) / 255
    share = histogram / histogram.sum()
    mean = float(share @ grey)
    return Statistics(mean, float(np.sqrt(share @ (grey - mean) ** 2)))

"""The raw file: three splits in one npz file, in ChestMNIST's layout or an equivalent one.

`{split}_images` uint8 (N, H, W) and `{split}_labels` (N, L) of 0, 1 and -1 for unknown, and
optionally what ChestMNIST itself lacks: `{split}_ids` and `{split}_patients` (N,), `label_names`
(L,), and `{split}_attributes` (N, A), texts named by `attribute_names` (A,). Without names, the
labels are ChestMNIST's 14. Extra axes of length 1 are allowed, as in (N, H, W, 1); labels may have
any numeric dtype, and texts may be UTF-8 bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr.data.attributes import (
    AGE,
    ATTRIBUTE_NAME,
    MOST_ATTRIBUTES,
    MOST_CHARACTERS,
    clean_ages,
)
from cxr.data.companion import KEY, Companion, Joined, join
from cxr.data.npz import Array, NpyWriter, NpzReader
from cxr.data.splits import SPLITS, Dataset, Origin, Statistics, write_dataset
from cxr.documents import damaged
from cxr.errors import CxrError
from cxr.formatting import count
from cxr.labels import CHESTMNIST, MOST_LABELS, UNKNOWN, checked_names, in_order
from cxr.params import Fit

COLUMNS = ("ids", "patients")
NAMES, ATTRIBUTE_NAMES = "label_names", "attribute_names"
SIDES = (8, 1024)  # pixels per side of an image, minimum and maximum
MISSING = (
    "; save `{split}_images` and `{split}_labels` for each split (train, val, test) with np.savez"
)


def check(path: Path, scratch: Path) -> None:
    """Read every value of a user's file once; CxrError at the first problem.

    Only unusable data is rejected here. Problems that make a result doubtful (duplicates, leaks
    between splits) are found and reported by `quality`.

    Parameters
    ----------
    scratch : folder for temporary files.
    """
    with NpzReader(path, scratch) as reader:
        _, names = _check_headers(reader)
        for split in SPLITS:
            _check_labels(reader, split, names)
            for column in COLUMNS:
                _column(reader, f"{split}_{column}")
            _attributes(reader, split)
            low, high, _ = _range(reader, f"{split}_images")
            if split == "train" and low == high:
                raise CxrError(
                    f"{path}: every pixel of train_images is {low}; check how the images were saved"
                )
            if split == "train" and high == 1:
                raise CxrError(
                    f"{path}: train_images contains only 0 and 1; expected 0 to 255; multiply "
                    "images scaled 0 to 1 by 255 before converting them to uint8"
                )


def check_companion(path: Path, companion: Companion) -> None:
    """Join a valid raw file with a companion table; CxrError if they don't fit together."""
    with NpzReader(path) as reader:
        _contents(reader, companion)


@dataclass(frozen=True)
class Extracted:
    """What `extract` found besides the arrays."""

    dataset: Dataset
    statistics: Statistics
    impossible_ages: dict[str, int]  # by split, if there are ages; they count as unknown
    joined: Joined | None


def extract(
    raw: Path, origin: Origin, folder: Path, fit: Fit, companion: Companion | None = None
) -> Extracted:
    """Write the splits of a valid raw file (see `check`) to `folder` as one array per file."""
    try:
        with NpzReader(raw, folder) as reader:
            contents = _contents(reader, companion)
            histograms = {split: _write_images(reader, split, folder) for split in SPLITS}
            ages = {split: _write_columns(reader, split, folder, contents) for split in SPLITS}
    except CxrError:
        raise damaged(raw, "it is not the file that the download stage wrote") from None
    dataset = Dataset(
        origin, contents.size, contents.n, contents.label_names, contents.attribute_names, fit
    )
    write_dataset(dataset, folder)
    ages = ages if AGE in contents.attribute_names else {}
    return Extracted(dataset, _statistics(histograms["train"]), ages, contents.joined)


@dataclass(frozen=True)
class _Contents:
    """What a raw file and its companion table hold, without the values."""

    size: int
    n: dict[str, int]
    label_names: tuple[str, ...]  # in the order in which they are written
    label_order: list[int]  # of the raw file's columns followed by the companion's
    attribute_names: tuple[str, ...]
    joined: Joined | None


def _contents(reader: NpzReader, companion: Companion | None) -> _Contents:
    size, names = _check_headers(reader)
    attributes = _attribute_names(reader)
    n = {split: reader.header(f"{split}_labels").shape[0] for split in SPLITS}
    joined = None
    if companion is not None:
        names = checked_names([*names, *companion.labels], f"{KEY}.labels")
        if twice := set(attributes) & companion.attributes.keys():
            raise CxrError(
                f"{KEY}.attributes: the data have an attribute {min(twice)!r} already; remove it "
                "there or rename it"
            )
        has_patients = any(f"{split}_patients" in reader.keys for split in SPLITS)
        if companion.patients is not None and has_patients:
            raise CxrError(f"{KEY}.patient: the data have patients already; set it to null")
        ids = {split: _column(reader, f"{split}_ids") for split in SPLITS}
        joined = join(companion, ids, n)
        attributes = (*attributes, *companion.attributes)
    order = in_order(names)
    return _Contents(size, n, tuple(names[i] for i in order), order, attributes, joined)


def _check_headers(reader: NpzReader) -> tuple[int, tuple[str, ...]]:
    """Check shapes and dtypes; returns the size of the images in pixels, and the labels' names."""
    reader.require((f"{s}_{kind}" for s in SPLITS for kind in ("images", "labels")), MISSING)
    names = label_names(reader)
    sizes = {_check_header_of_images(reader, split) for split in SPLITS}
    for split in SPLITS:
        _check_other_headers(reader, split, len(names))
    if len(sizes) > 1:
        raise CxrError(
            f"{reader.path}: the splits have images of different sizes: {sorted(sizes)}; "
            "resize all images to one size"
        )
    return sizes.pop(), names


def label_names(reader: NpzReader) -> tuple[str, ...]:
    """The name of each column of labels; known findings get ChestMNIST's names."""
    if NAMES not in reader.keys:
        return CHESTMNIST
    shape, dtype = reader.header(NAMES)
    if len(shape) != 1 or dtype.kind not in "US" or not 1 <= shape[0] <= MOST_LABELS:
        raise CxrError(
            f"{reader.path}: {NAMES} has dtype {dtype} and shape {shape}; expected 1 to "
            f"{MOST_LABELS} strings, one per column of the labels"
        )
    return checked_names(_texts(reader, NAMES).tolist(), f"{reader.path}: {NAMES}")


def _attribute_names(reader: NpzReader) -> tuple[str, ...]:
    if ATTRIBUTE_NAMES not in reader.keys:
        return ()
    shape, dtype = reader.header(ATTRIBUTE_NAMES)
    is_list = len(shape) == 1 and dtype.kind in "US"
    names = _texts(reader, ATTRIBUTE_NAMES).tolist() if is_list else []
    if not is_list or not 1 <= len(set(names)) == shape[0] <= MOST_ATTRIBUTES:
        raise CxrError(
            f"{reader.path}: {ATTRIBUTE_NAMES} has dtype {dtype} and shape {shape}; expected 1 to "
            f"{MOST_ATTRIBUTES} different strings"
        )
    if bad := [name for name in names if not ATTRIBUTE_NAME.fullmatch(name)]:
        raise CxrError(
            f"{reader.path}: {ATTRIBUTE_NAMES} has {bad[0]!r}; use up to 40 letters, digits, "
            "spaces, _ and -"
        )
    return tuple(names)


def _check_header_of_images(reader: NpzReader, split: str) -> int:
    key = f"{split}_images"
    shape, dtype = reader.header(key)
    if dtype != np.uint8:
        raise CxrError(f"{reader.path}: {key} has dtype {dtype}{_conversion(reader, key)}")
    inner = _without_ones(shape)
    if len(inner) != 2 or inner[0] != inner[1] or not SIDES[0] <= inner[0] <= SIDES[1]:
        raise CxrError(
            f"{reader.path}: {key} has shape {shape}; expected square grey images, (N, H, H) "
            f"with H from {SIDES[0]} to {SIDES[1]}; {_reshaping(key, inner)}"
        )
    if shape[0] == 0:
        raise CxrError(f"{reader.path}: {key} is empty; every split needs at least one image")
    return inner[0]


def _check_other_headers(reader: NpzReader, split: str, n_labels: int) -> None:
    n = reader.header(f"{split}_images").shape[0]
    for kind in ("labels", *COLUMNS):
        key = f"{split}_{kind}"
        if key not in reader.keys:
            continue
        shape, dtype = reader.header(key)
        if kind == "labels" and dtype.kind not in "uibf":
            raise CxrError(
                f"{reader.path}: {key} has dtype {dtype}; labels must be numeric: 0, 1 or -1"
            )
        if kind == "labels" and _without_ones(shape) != ((n_labels,) if n_labels > 1 else ()):
            order = f"as in {NAMES}" if NAMES in reader.keys else "in ChestMNIST's order"
            fix = "" if NAMES in reader.keys else f"; name other labels in an array `{NAMES}`"
            raise CxrError(
                f"{reader.path}: {key} has shape {shape}; expected (N, {n_labels}), one column "
                f"per label {order}{fix}"
            )
        if kind != "labels" and (_without_ones(shape) or dtype.kind not in "iuUS"):
            raise CxrError(
                f"{reader.path}: {key} has dtype {dtype} and shape {shape}; expected one integer "
                "or string per image; fix the array or remove it"
            )
        if shape[0] != n:
            raise CxrError(
                f"{reader.path}: {split}_images has {n} rows and {key} has {shape[0]}; "
                "expected one row per image"
            )
    key = f"{split}_attributes"
    if key in reader.keys:
        reader.require((ATTRIBUTE_NAMES,), f"; name the columns of {key}, or remove it")
    if attributes := _attribute_names(reader):
        reader.require((key,), f"; add it or remove {ATTRIBUTE_NAMES}")
        shape, dtype = reader.header(key)
        if shape != (n, len(attributes)) or dtype.kind not in "US":
            raise CxrError(
                f"{reader.path}: {key} has dtype {dtype} and shape {shape}; expected strings of "
                f"shape ({n}, {len(attributes)}), one column per name in {ATTRIBUTE_NAMES}"
            )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one row, without axes of length 1."""
    return tuple(length for length in shape[1:] if length != 1)


def _conversion(reader: NpzReader, key: str) -> str:
    """The range of the values, and the numpy code that converts them to uint8."""
    expected = "; expected uint8 with values from 0 to 255"
    shape, dtype = reader.header(key)
    if dtype.kind not in "biuf" or 0 in shape:
        return expected
    low, high, n_nan = _range(reader, key)
    observed = (
        f" with {count(n_nan, 'NaN value')}" if n_nan else f" with values from {low:g} to {high:g}"
    )
    if not np.isfinite((low, high)).all():
        return f"{observed}{expected}; give every pixel a finite value"
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
    return f"{observed}{expected}; convert the images of each split with `{code}`"


def _reshaping(key: str, inner: tuple[int, ...]) -> str:
    """How to convert images of another shape to square grey images."""
    if len(inner) == 3 and 3 in (inner[0], inner[2]):
        axis = -1 if inner[2] == 3 else 1
        return f"convert colour to grey with `{key}.mean(axis={axis}).round().astype(np.uint8)`"
    return "crop, pad or resize the images"


def _range(reader: NpzReader, key: str) -> tuple[float, float, int]:
    """Minimum and maximum of an array, and the number of NaN values."""
    low, high, n_nan = np.inf, -np.inf, 0
    for rows in reader.chunks(key):
        low = min(low, np.fmin.reduce(rows, axis=None).item())
        high = max(high, np.fmax.reduce(rows, axis=None).item())
        n_nan += int(np.isnan(rows).sum()) if rows.dtype.kind == "f" else 0
    return low, high, n_nan


def _check_labels(reader: NpzReader, split: str, names: tuple[str, ...]) -> None:
    key, first, n_wrong, n_rows = f"{split}_labels", "", 0, 0
    for labels in _rows(reader, key, (len(names),)):
        wrong = np.argwhere((labels != 0) & (labels != 1) & (labels != UNKNOWN))
        if len(wrong) and not first:
            row, column = wrong[0]
            first = f"{labels[row, column]} at row {n_rows + row}, {names[column]}"
        n_wrong += len(wrong)
        n_rows += len(labels)
    if n_wrong:
        raise CxrError(
            f"{reader.path}: {key} contains {first} "
            f"({count(n_wrong, 'invalid value')}); labels must be 0, 1 or -1 (unknown)"
        )


def _rows(reader: NpzReader, key: str, inner: tuple[int, ...]) -> Iterator[Array]:
    """An array chunk by chunk, without the axes of length 1."""
    return (rows.reshape(len(rows), *inner) for rows in reader.chunks(key))


def _column(reader: NpzReader, key: str) -> Array | None:
    """Ids or patients (N,), bytes decoded; None if the file has no such array."""
    return _texts(reader, key) if key in reader.keys else None


def _attributes(reader: NpzReader, split: str) -> Array:
    """The attributes (N, A) of the raw file itself."""
    if not (names := _attribute_names(reader)):
        return np.empty((reader.header(f"{split}_images").shape[0], 0), "U1")
    values = _decoded(reader, f"{split}_attributes")
    if values.dtype.itemsize > np.dtype(f"U{MOST_CHARACTERS}").itemsize:
        lengths = np.char.str_len(values)
        if lengths.max() > MOST_CHARACTERS:
            row, column = np.unravel_index(lengths.argmax(), lengths.shape)
            raise CxrError(
                f"{reader.path}: {names[column]!r} of {split} has {lengths.max()} characters in "
                f"row {row}; an attribute may have at most {MOST_CHARACTERS}"
            )
    return np.char.strip(values)


def _texts(reader: NpzReader, key: str) -> Array:
    """An array of one value per row, bytes decoded."""
    values = _decoded(reader, key)
    return values.reshape(len(values))


def _decoded(reader: NpzReader, key: str) -> Array:
    values = reader.read(key)
    if values.dtype.kind != "S":
        return values
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        raise CxrError(
            f"{reader.path}: {key} contains bytes that are not UTF-8; save it with .astype(str)"
        ) from None


def _write_images(reader: NpzReader, split: str, folder: Path) -> npt.NDArray[np.int64]:
    """Stream a split's images to disk; returns the histogram of their grey values, (256,)."""
    n, *inner = reader.header(f"{split}_images").shape
    size = max(inner)
    histogram = np.zeros(256, np.int64)
    with open(folder / f"{split}_images.npy", "wb") as file:
        writer = NpyWriter(file, (n, size, size), np.uint8)
        for rows in _rows(reader, f"{split}_images", (size, size)):
            writer.append(rows)
            histogram += np.bincount(rows.ravel(), minlength=256)
    return histogram


def _write_columns(reader: NpzReader, split: str, folder: Path, contents: _Contents) -> int:
    """Write a split's other arrays; returns the number of impossible ages."""
    joined = contents.joined
    n_own = len(contents.label_order) - (joined.labels[split].shape[1] if joined else 0)
    labels = np.concatenate(list(_rows(reader, f"{split}_labels", (n_own,)))).astype(np.int8)
    attributes = _attributes(reader, split)
    columns: dict[str, Array | None] = {c: _column(reader, f"{split}_{c}") for c in COLUMNS}
    if joined is not None:
        labels = np.hstack([labels, joined.labels[split]])
        attributes = np.hstack([attributes, joined.attributes[split]])
        columns["ids"] = joined.ids[split]
        if joined.patients is not None:
            columns["patients"] = joined.patients[split]
    n_impossible = 0
    if AGE in contents.attribute_names:
        texts = list(attributes.T)
        i = contents.attribute_names.index(AGE)
        texts[i], n_impossible = clean_ages(texts[i])
        attributes = np.stack(texts, axis=1)
    columns["labels"] = np.ascontiguousarray(labels[:, contents.label_order])
    if contents.attribute_names:
        columns["attributes"] = attributes
    for name, values in columns.items():
        if values is not None:
            np.save(folder / f"{split}_{name}.npy", values, allow_pickle=False)
    return n_impossible


def _statistics(histogram: npt.NDArray[np.int64]) -> Statistics:
    grey = np.arange(256) / 255
    share = histogram / histogram.sum()
    mean = float(share @ grey)
    return Statistics(mean, float(np.sqrt(share @ (grey - mean) ** 2)))

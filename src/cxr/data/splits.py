"""The three splits: checked out of a raw npz, laid down as arrays that can be memory-mapped.

A raw file has ChestMNIST's layout: `{split}_images` uint8 (N, H, W) and `{split}_labels` (N, 14) of
0 and 1, and may have `{split}_ids` and `{split}_patients`, which ChestMNIST itself lacks.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cxr.data.npz import NpyWriter, NpzReader, load_npy
from cxr.documents import read_json
from cxr.errors import CxrError
from cxr.labels import LABELS

SPLITS = ("train", "val", "test")
OPTIONAL_COLUMNS = ("ids", "patients")
RAW_FILE = "chest.npz"  # beside its origin.json
SOURCES = ("medmnist", "file", "phantom")
SIDES = (8, 1024)  # pixels of an image; more than a network takes here
MOST_NAME = 200  # characters of a data's name, which MLflow keeps up to 256

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where a raw file came from; travels with the data into every record, run and figure."""

    name: str  # chestmnist-28, phantom-28, or the stem of a user's file
    source: str  # medmnist, file or phantom

    def __post_init__(self) -> None:
        """CxrError where the name can't be that of a folder: MLflow's artifacts stand in one."""
        bad = self.name in ("", ".", "..") or len(self.name) > MOST_NAME
        if bad or not self.name.isprintable() or not {"/", "\\"}.isdisjoint(self.name):
            raise CxrError(
                f"the data can't be called {self.name!r}; give the file a name of at most "
                f"{MOST_NAME} printable characters without slashes"
            )
        if self.source not in SOURCES:
            raise CxrError(f"data has no source {self.source!r}; it is one of {', '.join(SOURCES)}")

    @property
    def is_phantom(self) -> bool:
        return self.source == "phantom"


@dataclass(frozen=True)
class Dataset:
    """What `dataset.json` says of the arrays beside it."""

    origin: Origin
    size: int  # pixels, height and width
    n: dict[str, int]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training pixels, on the scale 0..1."""

    mean: float
    std: float


@dataclass(frozen=True)
class Split:
    """One split: images uint8 (N, H, W), mapped from their file, and labels uint8 (N, L)."""

    images: Bytes
    labels: Bytes
    ids: npt.NDArray[Any] | None
    patients: npt.NDArray[Any] | None


def write_origin(origin: Origin, folder: Path) -> None:
    _write_json(asdict(origin), folder / "origin.json")


def read_origin(folder: Path) -> Origin:
    """Where the raw file in `folder` came from."""
    return _parsed(folder / "origin.json", _origin)


def extract(raw: Path, origin: Origin, folder: Path) -> tuple[Dataset, Statistics]:
    """Check `raw` and lay its splits down in `folder`; CxrError at the first thing that is wrong.

    Only what makes the data unusable is refused here. What makes a result doubtful (duplicates,
    leaks between splits) is found by `quality` and reported.
    """
    with NpzReader(raw) as reader:
        sizes = {_check_split(reader, split) for split in SPLITS}
        if len(sizes) > 1:
            raise CxrError(f"{raw}: the splits have images of different sizes: {sorted(sizes)}")
        histogram = np.zeros(256, np.int64)
        for split in SPLITS:
            _write_labels(reader, split, folder)
            histogram_of_split = _write_images(reader, split, folder)
            if split == "train":
                histogram = histogram_of_split
            for column in OPTIONAL_COLUMNS:
                _write_column(reader, f"{split}_{column}", folder)
        dataset = Dataset(
            origin=origin,
            size=sizes.pop(),
            n={split: reader.header(f"{split}_labels").shape[0] for split in SPLITS},
            labels=LABELS,
        )
    _write_json(asdict(dataset), folder / "dataset.json")
    return dataset, _statistics(histogram)


def open_dataset(folder: Path) -> Dataset:
    """What the arrays in `folder` are."""
    return _parsed(folder / "dataset.json", _dataset)


def open_statistics(path: Path) -> Statistics:
    return _parsed(path, lambda content: Statistics(float(content["mean"]), float(content["std"])))


def open_split(folder: Path, split: str) -> Split:
    """The arrays of one split; images stay on disk until they are read."""
    return Split(
        # Copied on a write, since torch takes no array that refuses one; nothing here writes.
        images=load_npy(folder / f"{split}_images.npy", mapped=True),
        labels=load_npy(folder / f"{split}_labels.npy"),
        ids=_load_if_there(folder / f"{split}_ids.npy"),
        patients=_load_if_there(folder / f"{split}_patients.npy"),
    )


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _load_if_there(path: Path) -> npt.NDArray[Any] | None:
    if not path.exists():
        return None
    return load_npy(path)


def _parsed(path: Path, parse: Callable[[Any], T]) -> T:
    """A JSON file that the pipeline wrote, made into what it describes."""
    try:
        return parse(read_json(path))
    except FileNotFoundError:
        raise CxrError(f"{path} is missing; `dvc repro` makes it, `dvc pull` brings it") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CxrError(f"{path} is damaged; `dvc checkout --force` mends it") from None


def _origin(content: Any) -> Origin:
    return Origin(str(content["name"]), str(content["source"]))


def _dataset(content: Any) -> Dataset:
    return Dataset(
        origin=_origin(content["origin"]),
        size=int(content["size"]),
        n={split: int(content["n"][split]) for split in SPLITS},
        labels=tuple(content["labels"]),
    )


def _check_split(reader: NpzReader, split: str) -> int:
    """Check the headers of one split and return the size of its images in pixels."""
    where = str(reader.path)
    shape, dtype = reader.header(f"{split}_images")
    if dtype != np.uint8:
        raise CxrError(
            f"{where}: {split}_images is {dtype}{_nan_count(reader, f'{split}_images', dtype)}; "
            "images must be uint8, 0 to 255"
        )
    if len(shape) != 3 or shape[1] != shape[2] or not SIDES[0] <= shape[1] <= SIDES[1]:
        raise CxrError(
            f"{where}: {split}_images has shape {shape}; "
            f"grey square images are needed, (N, H, H) with H of {SIDES[0]} to {SIDES[1]}"
        )
    if shape[0] == 0:
        raise CxrError(f"{where}: {split}_images is empty; every split needs images")
    labels_shape, labels_dtype = reader.header(f"{split}_labels")
    if labels_dtype.kind not in "uib":
        raise CxrError(
            f"{where}: {split}_labels is {labels_dtype}"
            f"{_nan_count(reader, f'{split}_labels', labels_dtype)}; "
            "labels must be integers, 0 or 1"
        )
    if len(labels_shape) != 2 or labels_shape[1] != len(LABELS):
        raise CxrError(
            f"{where}: {split}_labels has shape {labels_shape}; "
            f"{len(LABELS)} labels are needed, (N, {len(LABELS)}) in ChestMNIST's order"
        )
    for column in OPTIONAL_COLUMNS:
        key = f"{split}_{column}"
        if key in reader.keys:
            column_shape, column_dtype = reader.header(key)
            if len(column_shape) != 1 or column_dtype.kind not in "iuU":
                raise CxrError(
                    f"{where}: {key} is {column_dtype} of shape {column_shape}; "
                    "one integer or text an image is needed"
                )
    for column in ("labels", *OPTIONAL_COLUMNS):
        key = f"{split}_{column}"
        if key in reader.keys and reader.header(key).shape[0] != shape[0]:
            raise CxrError(
                f"{where}: {split}_images has {shape[0]} rows and {key} has "
                f"{reader.header(key).shape[0]}; one row an image is needed"
            )
    return int(shape[1])


def _nan_count(reader: NpzReader, key: str, dtype: np.dtype[Any]) -> str:
    if dtype.kind != "f":
        return ""
    n_nan = sum(int(np.isnan(rows).sum()) for rows in reader.chunks(key))
    return f" with {n_nan} NaN" if n_nan else ""


def _write_labels(reader: NpzReader, split: str, folder: Path) -> None:
    labels = reader.read(f"{split}_labels")
    wrong = np.argwhere((labels != 0) & (labels != 1))
    if len(wrong):
        row, column = wrong[0]
        raise CxrError(
            f"{reader.path}: {split}_labels holds {labels[row, column]} at row {row}, "
            f"{LABELS[column]} ({len(wrong)} such values); labels must be 0 or 1"
        )
    np.save(folder / f"{split}_labels.npy", labels.astype(np.uint8), allow_pickle=False)


def _write_images(reader: NpzReader, split: str, folder: Path) -> npt.NDArray[np.int64]:
    """Stream the images to disk; their histogram of grey values, exact whatever the chunks."""
    key = f"{split}_images"
    histogram = np.zeros(256, np.int64)
    with open(folder / f"{key}.npy", "wb") as file:
        writer = NpyWriter(file, reader.header(key).shape, np.uint8)
        for rows in reader.chunks(key):
            writer.append(rows)
            histogram += np.bincount(rows.ravel(), minlength=256)
    return histogram


def _write_column(reader: NpzReader, key: str, folder: Path) -> None:
    if key in reader.keys:
        np.save(folder / f"{key}.npy", reader.read(key), allow_pickle=False)


def _statistics(histogram: npt.NDArray[np.int64]) -> Statistics:
    grey = np.arange(256) / 255
    share = histogram / histogram.sum()
    mean = float(share @ grey)
    std = float(np.sqrt(share @ (grey - mean) ** 2))
    if std == 0:
        raise CxrError("all training pixels have one value; there is nothing to learn from")
    return Statistics(mean, std)

"""The three splits as memory-mapped arrays, with their origin and statistics."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr.arrays import Labels
from cxr.data.npz import load_npy
from cxr.documents import read_output
from cxr.errors import CxrError
from cxr.params import Download, Fit

SPLITS = ("train", "val", "test")
RAW_FILE = "chest.npz"  # next to its origin.json
SOURCES = ("medmnist", "file", "phantom", "table")
TABLE_SUFFIX = re.compile(r"\.(csv|tsv|txt|parquet)(\.gz)?$", re.IGNORECASE)
MOST_NAME = 200  # characters of a data set's name; MLflow allows 256

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Origin:
    """Where a raw file came from; travels with the data into every record, run and figure."""

    name: str  # chestmnist-28, phantom-28, or the name of a user's file without its suffixes
    source: str  # one of SOURCES

    def __post_init__(self) -> None:
        """CxrError if the name is not a valid folder name: MLflow stores artifacts under it."""
        bad = self.name in ("", ".", "..") or len(self.name) > MOST_NAME
        if bad or not self.name.isprintable() or not {"/", "\\"}.isdisjoint(self.name):
            raise CxrError(
                f"{self.name!r} is not a valid data set name; rename the file to at most "
                f"{MOST_NAME} printable characters without slashes"
            )
        if self.source not in SOURCES:
            raise CxrError(
                f"unknown data source {self.source!r}; expected one of {', '.join(SOURCES)}"
            )

    @property
    def is_phantom(self) -> bool:
        return self.source == "phantom"


def origin(download: Download) -> Origin:
    """The data's name and source, as shown in records, runs and figures."""
    names = {
        "medmnist": f"chestmnist-{download.size}",
        "phantom": f"phantom-{download.size}",
        "file": Path(download.path or "").stem,
        "table": TABLE_SUFFIX.sub("", Path(download.path or "").name),
    }
    return Origin(names[download.source], download.source)


@dataclass(frozen=True)
class Dataset:
    """The content of `dataset.json`, which describes the arrays in the same folder."""

    origin: Origin
    size: int  # pixels, height and width
    n: dict[str, int]
    labels: tuple[str, ...]
    attributes: tuple[str, ...]
    fit: Fit  # how other images become square


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training pixels, on the scale 0..1."""

    mean: float
    std: float


@dataclass(frozen=True)
class Split:
    """One split: images uint8 (N, H, W), mapped from their file, and labels int8 (N, L)."""

    images: Bytes
    labels: Labels  # 0, 1 or UNKNOWN
    names: tuple[str, ...]  # (L,), of the labels
    ids: npt.NDArray[Any] | None
    patients: npt.NDArray[Any] | None
    # By name, (N,), empty where unknown.
    attributes: dict[str, npt.NDArray[np.str_]] = field(default_factory=dict)


def write_origin(origin: Origin, folder: Path) -> None:
    _write_json(asdict(origin), folder / "origin.json")


def read_origin(folder: Path) -> Origin:
    """The origin of the raw file in `folder`."""
    return read_output(folder / "origin.json", _origin)


def write_dataset(dataset: Dataset, folder: Path) -> None:
    _write_json(asdict(dataset), folder / "dataset.json")


def open_dataset(folder: Path) -> Dataset:
    """The description of the arrays in `folder`."""
    return read_output(folder / "dataset.json", _dataset)


def open_statistics(path: Path) -> Statistics:
    return read_output(
        path, lambda content: Statistics(float(content["mean"]), float(content["std"]))
    )


def open_split(folder: Path, split: str) -> Split:
    """The arrays of one split; images stay on disk until they are read."""
    dataset = open_dataset(folder)
    attributes = _load_optional(folder / f"{split}_attributes.npy")
    columns = () if attributes is None else attributes.T
    return Split(
        # Mapped copy-on-write because torch rejects read-only arrays; nothing here writes.
        images=load_npy(folder / f"{split}_images.npy", mapped=True),
        labels=load_npy(folder / f"{split}_labels.npy"),
        names=dataset.labels,
        ids=_load_optional(folder / f"{split}_ids.npy"),
        patients=_load_optional(folder / f"{split}_patients.npy"),
        attributes=dict(zip(dataset.attributes, columns, strict=True)),
    )


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _load_optional(path: Path) -> npt.NDArray[Any] | None:
    if not path.exists():
        return None
    return load_npy(path)


def _origin(content: Any) -> Origin:
    return Origin(str(content["name"]), str(content["source"]))


def _dataset(content: Any) -> Dataset:
    return Dataset(
        origin=_origin(content["origin"]),
        size=int(content["size"]),
        n={split: int(content["n"][split]) for split in SPLITS},
        labels=tuple(content["labels"]),
        attributes=tuple(content["attributes"]),
        fit=content["fit"],
    )

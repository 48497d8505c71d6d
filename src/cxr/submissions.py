"""Anybody's predictions and labels, read from the files people have and matched image by image.

npz with `{split}_logits`, `{split}_probs` or `{split}_labels` (also without the split), CSV with an
id column and a column a label, and the CSV that medmnist's own `Evaluator` writes.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cxr.data.npz import NpzReader
from cxr.documents import read_within
from cxr.errors import CxrError
from cxr.labels import LABELS, canonical

Kind = Literal["logits", "probs", "labels"]
Texts = npt.NDArray[np.str_]

ARRAYS: dict[Kind, tuple[str, ...]] = {
    "logits": ("logits",),
    "probs": ("probs", "probabilities"),
    "labels": ("labels",),
}
IDS = ("ids", "id", "image", "image_id", "image_ids", "image_index", "filename", "file", "path", "")
PATIENTS = ("patients", "patient", "patient_id", "patient_ids")
OF_PREDICTIONS, OF_LABELS = ("prob_", "probs_", "pred_", "p_", "logit_"), ("label_",)  # prefixes
MOST_CSV_BYTES = 2**27  # four times ChestMNIST's 112,120 images with 17 digits a number
MOST_CELLS = 200  # of a line: labels under several prefixes, and what others add
# A table of ids takes the longest one's memory for each.
MOST_ID = 512  # characters
IMAGE_FILES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom"}


class Row(NamedTuple):
    """One row of a CSV, and the line of the file where it ends."""

    line: int
    cells: list[str]


@dataclass(frozen=True)
class Table:
    """One number for each label of each image."""

    path: Path
    kind: Kind
    values: npt.NDArray[np.float64]  # (N, L)
    ids: Texts | None  # (N,), without folder and file type
    patients: Texts | None  # (N,)

    def image(self, row: int) -> str:
        """How to name an image to people."""
        return f"row {row + 1}" if self.ids is None else f"image {self.ids[row]}"


@dataclass(frozen=True)
class Matched:
    """Predictions and labels of the same images in the same order."""

    predictions: Table
    labels: Table
    by: Literal["id", "order"]

    @property
    def patients(self) -> Texts | None:
        """Whose image each is, as far as one of the two says so."""
        told = self.labels.patients
        return self.predictions.patients if told is None else told


def read_predictions(path: Path, split: str, are_logits: bool, exact: bool = False) -> Table:
    """Logits or probabilities of a split; CxrError names what is wrong with the file.

    Parameters
    ----------
    split : whose arrays to take from an npz.
    are_logits : whether the numbers of a CSV are logits.
    exact : take from an npz only what has the split in its name.
    """
    if _is_npz(path):
        table = _from_npz(path, split, ("logits", "probs"), exact)
    else:
        table = _from_csv(path, "logits" if are_logits else "probs")
    _check_finite(table)
    outside = np.argwhere((table.values < 0) | (table.values > 1))
    if table.kind == "probs" and len(outside):
        row, label = outside[0]
        raise CxrError(
            f"{path}: {LABELS[label]} of {table.image(row)} is {table.values[row, label]:g}, and "
            "probabilities lie in 0..1; "
            + ("save logits as `logits`" if _is_npz(path) else "for logits add --logits")
        )
    return table


def read_labels(path: Path, split: str, exact: bool = False) -> Table:
    """Labels of a split, 0 or 1; arguments and errors as for `read_predictions`."""
    if _is_npz(path):
        table = _from_npz(path, split, ("labels",), exact)
    else:
        table = _from_csv(path, "labels")
    _check_finite(table)
    wrong = np.argwhere((table.values != 0) & (table.values != 1))
    if len(wrong):
        row, label = wrong[0]
        raise CxrError(
            f"{path}: {LABELS[label]} of {table.image(row)} is {table.values[row, label]:g}; "
            "labels must be 0 or 1"
        )
    return table


def match(predictions: Table, labels: Table) -> Matched:
    """Bring predictions into the labels' order: by id where both have ids, else as they stand."""
    if predictions.ids is None or labels.ids is None:
        if len(predictions.values) != len(labels.values):
            raise CxrError(
                f"{predictions.path} has {len(predictions.values)} images and {labels.path} has "
                f"{len(labels.values)}; without ids in both they must be the same ones in one order"
            )
        return Matched(predictions, labels, "order")
    for table, ids in ((predictions, predictions.ids), (labels, labels.ids)):
        values, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise CxrError(
                f"{table.path}: id {values[counts > 1][0]} stands there more than once; give each "
                "image one row"
            )
    for table, ids, other in (
        (predictions, predictions.ids, labels),
        (labels, labels.ids, predictions),
    ):
        missing = ids[~np.isin(ids, np.asarray(other.ids))]
        if len(missing):
            raise CxrError(
                f"{other.path} lacks {len(missing)} ids of {table.path}, the first {missing[0]}; "
                "both must hold the same images"
            )
    order = order_by(predictions.ids, labels.ids)
    patients = predictions.patients
    return Matched(
        replace(
            predictions,
            values=predictions.values[order],
            ids=predictions.ids[order],
            patients=None if patients is None else patients[order],
        ),
        labels,
        "id",
    )


def order_by(ids: Texts, wanted: Texts) -> npt.NDArray[np.int64]:
    """The row in `ids` of each of the `wanted`, which are the same ids in another order."""
    rank_of_wanted = np.argsort(np.argsort(wanted))
    return np.asarray(np.argsort(ids)[rank_of_wanted], np.int64)


def plain_ids(ids: npt.NDArray[Any]) -> Texts:
    """Ids without folder and file type: `images/00000013_005.png` is `00000013_005`."""
    paths = [PurePath(text.strip()) for text in ids.astype(str)]
    return np.array([p.stem if p.suffix.lower() in IMAGE_FILES else p.name for p in paths], str)


def has_arrays(path: Path, split: str, kinds: tuple[Kind, ...]) -> bool:
    """Whether an npz holds one of these kinds for the split, under the split's own name."""
    if not _is_npz(path):
        return False
    with NpzReader(path) as reader:
        return any(f"{split}_{name}" in reader.keys for kind in kinds for name in ARRAYS[kind])


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _from_npz(path: Path, split: str, kinds: tuple[Kind, ...], exact: bool) -> Table:
    with NpzReader(path) as reader:
        wanted = {name: kind for kind in kinds for name in ARRAYS[kind]}
        key = _key(reader, split, tuple(wanted), exact)
        if key is None:
            names = " or ".join(f"`{split}_{ARRAYS[kind][0]}`" for kind in kinds)
            raise CxrError(f"{path} has no {names}; it holds {', '.join(sorted(reader.keys))}")
        shape, dtype = reader.header(key)
        if len(shape) != 2 or shape[1] != len(LABELS) or dtype.kind not in "fiub":
            raise CxrError(
                f"{path}: {key} is {dtype} of shape {shape}; numbers of shape (N, {len(LABELS)}) "
                "in ChestMNIST's order of labels are needed"
            )
        values = reader.read(key).astype(np.float64)
        ids, patients = (
            _column(reader, split, names, len(values), exact) for names in (IDS, PATIENTS)
        )
    kind = wanted[key.removeprefix(f"{split}_")]
    return Table(path, kind, values, None if ids is None else plain_ids(ids), patients)


def _key(reader: NpzReader, split: str, names: tuple[str, ...], exact: bool) -> str | None:
    """The first of the names that is there, with the split in front before any without."""
    wanted = [f"{split}_{name}" for name in names] + ([] if exact else list(names))
    return next((name for name in wanted if name in reader.keys), None)


def _column(
    reader: NpzReader, split: str, names: tuple[str, ...], n: int, exact: bool
) -> Texts | None:
    key = _key(reader, split, names, exact)
    if key is None:
        return None
    shape, dtype = reader.header(key)
    if shape != (n,) or dtype.kind not in "iuU":
        raise CxrError(
            f"{reader.path}: {key} is {dtype} of shape {shape}; a whole number or a text for each "
            f"of the {n} images is needed"
        )
    return reader.read(key).astype(str)


def _from_csv(path: Path, kind: Kind) -> Table:
    rows = list(_rows(path))
    if not rows:
        raise CxrError(f"{path} is empty; a header and a row an image are needed")
    header = rows[0].cells
    if len(header) > MOST_CELLS:
        raise CxrError(f"{path} has {len(header)} columns; at most {MOST_CELLS} are read")
    for row in rows:
        if len(row.cells) != len(header):
            raise CxrError(
                f"{path}: line {row.line} has {len(row.cells)} cells and the first line "
                f"{len(header)}; every line needs as many"
            )
    if all(_number(cell) is not None for cell in header):
        return _from_medmnist(path, rows, kind)
    columns: dict[str, int] = {}
    for i, name in enumerate(header):
        label = _label(name, kind)
        if label in columns:
            raise CxrError(
                f"{path} has two columns for {label}, {header[columns[label]]} and {name}; "
                "leave one"
            )
        if label is not None:
            columns[label] = i
    missing = [label for label in LABELS if label not in columns]
    if missing:
        hint = "; is it separated by ;?" if len(header) == 1 and ";" in header[0] else ""
        raise CxrError(
            f"{path} has no column for {', '.join(missing)}; its columns are "
            f"{', '.join(map(repr, header))[:300]}{hint}"
        )
    return Table(
        path,
        kind,
        _numbers(path, rows[1:], [columns[label] for label in LABELS]),
        _texts(path, rows, IDS, plain_ids),
        _texts(path, rows, PATIENTS, lambda texts: texts),
    )


def _texts(
    path: Path, rows: list[Row], names: tuple[str, ...], plain: Callable[[Texts], Texts]
) -> Texts | None:
    """The column under the first of the names that is there; every cell must hold something."""
    header = [name.strip().lower().replace(" ", "_") for name in rows[0].cells]
    place = next((header.index(name) for name in names if name in header), None)
    if place is None:
        return None
    for row in rows[1:]:
        if not row.cells[place].strip():
            raise CxrError(
                f"{path}: line {row.line} has nothing in {rows[0].cells[place]!r}; every image "
                "needs one"
            )
        if len(row.cells[place]) > MOST_ID:
            raise CxrError(
                f"{path}: line {row.line} has {len(row.cells[place]):,} characters in "
                f"{rows[0].cells[place]!r}; at most {MOST_ID} are read"
            )
    return plain(np.array([row.cells[place].strip() for row in rows[1:]], dtype=str))


def _from_medmnist(path: Path, rows: list[Row], kind: Kind) -> Table:
    """No header; the image's row in the split, then its 14 numbers."""
    n_columns = len(rows[0].cells)
    if n_columns != len(LABELS) + 1:
        raise CxrError(
            f"{path} has no header and {n_columns} columns; a header that names the labels is "
            f"needed, or medmnist's layout of a row number and {len(LABELS)} numbers"
        )
    table = _numbers(path, rows, list(range(n_columns)))
    order = np.argsort(table[:, 0], kind="stable")
    if (table[order, 0] != np.arange(len(table))).any():
        raise CxrError(f"{path}: its first column must hold each row number from 0 on once")
    return Table(path, kind, table[order, 1:], None, None)


def _rows(path: Path) -> Iterator[Row]:
    try:
        content = read_within(path, MOST_CSV_BYTES)  # not by lines: one may have no end
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        yield from (Row(reader.line_num, cells) for cells in reader if cells)
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise CxrError(f"{path} is a folder; an npz or CSV file is needed") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CxrError(
            f"{path} is neither an npz nor a CSV file ({error}); save it as one"
        ) from None
    except OSError as error:
        raise CxrError(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:  # a name that no file has
        raise CxrError(f"{path} can't be read: {error}") from None


def _numbers(path: Path, rows: list[Row], columns: list[int]) -> npt.NDArray[np.float64]:
    values = np.empty((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            number = _number(row.cells[column])
            if number is None:
                raise CxrError(
                    f"{path}: line {row.line} holds {row.cells[column]!r} instead of a number"
                )
            values[i, j] = number
    return values


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _label(column: str, kind: Kind) -> str | None:
    """The label that a column is for, None where it is none or one of the other kind."""
    plain = column.strip().lower()
    mine: tuple[str, ...] = OF_PREDICTIONS
    others: tuple[str, ...] = OF_LABELS
    if kind == "labels":
        mine, others = others, mine
    if plain.startswith(others):
        return None
    for prefix in mine:
        plain = plain.removeprefix(prefix)
    return canonical(plain)


def _check_finite(table: Table) -> None:
    if not len(table.values):
        raise CxrError(f"{table.path} holds no image; a row for each is needed")
    wrong = np.argwhere(~np.isfinite(table.values))
    if len(wrong):
        row, label = wrong[0]
        raise CxrError(
            f"{table.path}: {LABELS[label]} of {table.image(row)} is "
            f"{table.values[row, label]:g} ({len(wrong)} such values); every number must be finite"
        )

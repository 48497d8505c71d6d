"""Anybody's predictions and labels, read from the files people have and matched image by image.

npz with `{split}_logits`, `{split}_probs` or `{split}_labels` (also without the split), CSV with an
id column and a column a label, and the CSV that medmnist's own `Evaluator` writes.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cxr.data.npz import NpzReader
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
PREFIXES = ("prob_", "probs_", "pred_", "p_", "logit_", "label_")
IMAGE_FILES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom"}


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


def read_predictions(path: Path, split: str, are_logits: bool) -> Table:
    """Logits or probabilities of a split; CxrError names what is wrong with the file.

    Parameters
    ----------
    split : whose arrays to take from an npz.
    are_logits : whether the numbers of a CSV are logits.
    """
    if _is_npz(path):
        table = _from_npz(path, split, ("logits", "probs"))
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


def read_labels(path: Path, split: str) -> Table:
    """Labels of a split, 0 or 1; CxrError names what is wrong with the file."""
    table = _from_npz(path, split, ("labels",)) if _is_npz(path) else _from_csv(path, "labels")
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
            raise CxrError(f"{table.path}: id {values[counts > 1][0]} stands there more than once")
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


def has_split(path: Path, split: str) -> bool:
    """Whether an npz holds this split's predictions or labels under the split's own name."""
    if not _is_npz(path):
        return False
    with NpzReader(path) as reader:
        return any(f"{split}_{name}" in reader.keys for names in ARRAYS.values() for name in names)


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _from_npz(path: Path, split: str, kinds: tuple[Kind, ...]) -> Table:
    with NpzReader(path) as reader:
        for kind in kinds:
            key = _key(reader, split, ARRAYS[kind])
            if key is not None:
                break
        else:
            names = " or ".join(f"`{split}_{ARRAYS[kind][0]}`" for kind in kinds)
            raise CxrError(f"{path} has no {names}; it holds {', '.join(sorted(reader.keys))}")
        shape, dtype = reader.header(key)
        if len(shape) != 2 or shape[1] != len(LABELS) or dtype.kind not in "fiub":
            raise CxrError(
                f"{path}: {key} is {dtype} of shape {shape}; numbers of shape (N, {len(LABELS)}) "
                "in ChestMNIST's order of labels are needed"
            )
        values = reader.read(key).astype(np.float64)
        ids, patients = (_column(reader, split, names, len(values)) for names in (IDS, PATIENTS))
    return Table(path, kind, values, None if ids is None else plain_ids(ids), patients)


def _key(reader: NpzReader, split: str, names: tuple[str, ...]) -> str | None:
    wanted = [f"{split}_{name}" for name in names] + list(names)
    return next((name for name in wanted if name in reader.keys), None)


def _column(reader: NpzReader, split: str, names: tuple[str, ...], n: int) -> Texts | None:
    key = _key(reader, split, names)
    if key is None:
        return None
    shape, dtype = reader.header(key)
    if shape != (n,) or dtype.kind not in "iuU":
        raise CxrError(f"{reader.path}: {key} is {dtype} of shape {shape}; one an image is needed")
    return reader.read(key).astype(str)


def _from_csv(path: Path, kind: Kind) -> Table:
    rows = list(_rows(path))
    if not rows:
        raise CxrError(f"{path} is empty")
    if all(_number(cell) is not None for cell in rows[0]):
        return _from_medmnist(path, rows, kind)
    header = [name.strip().lower().replace(" ", "_") for name in rows[0]]
    columns = {_label(name): i for i, name in reversed(list(enumerate(rows[0])))}
    missing = [label for label in LABELS if label not in columns]
    if missing:
        raise CxrError(
            f"{path} has no column for {', '.join(missing)}; its columns are "
            f"{', '.join(name or '(no name)' for name in rows[0])}"
        )
    values = _numbers(path, rows[1:], [columns[label] for label in LABELS], first_line=2)
    ids, patients = (
        next((i for name in names for i, each in enumerate(header) if each == name), None)
        for names in (IDS, PATIENTS)
    )
    return Table(
        path,
        kind,
        values,
        None if ids is None else plain_ids(np.array([row[ids] for row in rows[1:]], dtype=str)),
        None if patients is None else np.array([row[patients] for row in rows[1:]], dtype=str),
    )


def _from_medmnist(path: Path, rows: list[list[str]], kind: Kind) -> Table:
    """No header; the image's row in the split, then its 14 numbers."""
    if len(rows[0]) != len(LABELS) + 1:
        raise CxrError(
            f"{path} has no header and {len(rows[0])} columns; a header that names the labels is "
            f"needed, or medmnist's layout of a row number and {len(LABELS)} numbers"
        )
    table = _numbers(path, rows, list(range(len(LABELS) + 1)), first_line=1)
    order = np.argsort(table[:, 0], kind="stable")
    if (table[order, 0] != np.arange(len(table))).any():
        raise CxrError(f"{path}: its first column must hold each row number from 0 on once")
    return Table(path, kind, table[order, 1:], None, None)


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield from (row for row in csv.reader(file) if row)
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CxrError(f"{path} is a folder; an npz or CSV file is needed") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CxrError(f"{path} is neither an npz nor a CSV file ({error})") from None


def _numbers(
    path: Path, rows: list[list[str]], columns: list[int], first_line: int
) -> npt.NDArray[np.float64]:
    values = np.empty((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            cell = row[column] if column < len(row) else ""
            number = _number(cell)
            if number is None:
                raise CxrError(f"{path}: line {i + first_line} holds {cell!r} instead of a number")
            values[i, j] = number
    return values


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _label(column: str) -> str | None:
    plain = column.strip().lower()
    for prefix in PREFIXES:
        plain = plain.removeprefix(prefix)
    return canonical(plain)


def _check_finite(table: Table) -> None:
    if not len(table.values):
        raise CxrError(f"{table.path} holds no image")
    wrong = np.argwhere(~np.isfinite(table.values))
    if len(wrong):
        row, label = wrong[0]
        raise CxrError(
            f"{table.path}: {LABELS[label]} of {table.image(row)} is "
            f"{table.values[row, label]:g} ({len(wrong)} such values); every number must be finite"
        )

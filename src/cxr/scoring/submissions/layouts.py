"""A CSV as a table of images and labels, in any of the layouts that people use.

A column per label; all labels of an image in one cell; a row per image and label; and the two files
that medmnist writes, without a header.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr.errors import CxrError
from cxr.labels import LABELS, bare, canonical
from cxr.scoring.submissions import rows
from cxr.scoring.submissions.columns import (
    Column,
    as_ids,
    choose_ids,
    is_patient,
    label_of,
    without_point_zero,
)
from cxr.scoring.submissions.rows import Row, Sheet
from cxr.scoring.submissions.table import Kind, Table, Texts

# A table of ids takes the longest one's memory for each.
MOST_ID = 512  # characters
EXPECTED = "expected a column `image` and a column for each of the 14 labels"

# Names of columns, without separators.
LIST_OF_PREDICTIONS = (
    "predicted", "prediction", "predictions", "pred", "preds", "probs", "probabilities", "scores",
    "logits", "output", "outputs",
)  # fmt: skip
LIST_OF_LABELS = ("labels", "label", "targets", "target", "findings", "classes")
LABEL_OF_ROW = ("label", "labelname", "finding", "class", "classname", "disease", "pathology")
PREDICTION_OF_ROW = (
    "prob", "probability", "score", "logit", "pred", "predicted", "prediction", "value",
)  # fmt: skip
TRUTH_OF_ROW = ("target", "truth", "groundtruth", "present", "value")

TRUTHS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
NO_FINDING = "nofinding"
SAVED_NAME = re.compile(r"(train|val|test)(\d+)(?:_[01]){14}\.\w+")  # by medmnist's save()


def read_csv(path: Path, kind: Kind, split: str) -> Table:
    """A CSV's numbers; CxrError names the line, the column and the fix.

    Parameters
    ----------
    split : whose rows to read from the CSV of medmnist's `save()`, which holds several.
    """
    sheet = rows.read(path)
    if len(sheet.header) == len(LABELS) + 2 and SAVED_NAME.fullmatch(sheet.header[1]):
        return _saved_by_medmnist(sheet, kind, split)
    n_numbers = sum(sheet.number(cell) is not None for cell in sheet.header)
    if n_numbers >= min(len(LABELS), len(sheet.header)):
        return _evaluated_by_medmnist(sheet, kind)
    columns: dict[str, int] = {}
    for i, name in enumerate(sheet.header):
        label = label_of(name, kind)
        if label in columns:
            raise CxrError(
                f"{path} has two columns for {label}, {sheet.header[columns[label]]!r} and "
                f"{name!r}; keep one"
            )
        if label is not None:
            columns[label] = i
    if len(columns) == len(LABELS):
        return _wide(sheet, kind, [columns[label] for label in LABELS])
    values_of_rows = TRUTH_OF_ROW if kind == "labels" else PREDICTION_OF_ROW
    label_column, value_column = (_named(sheet, n) for n in (LABEL_OF_ROW, values_of_rows))
    if not columns and label_column is not None and value_column is not None:
        return _long(sheet, kind, label_column, value_column)
    list_column = _named(sheet, LIST_OF_LABELS if kind == "labels" else LIST_OF_PREDICTIONS)
    if not columns and list_column is not None:
        return _lists(sheet, kind, list_column)
    raise CxrError(f"{path} {_lacking(sheet, columns)}")


def _lacking(sheet: Sheet, columns: dict[str, int]) -> str:
    """Why a sheet has no layout that is read."""
    names = {bare(name) for name in sheet.header}
    if "findinglabels" in names:
        return (
            f"is NIH's table of finding names ('Finding Labels'), which is not read yet; {EXPECTED}"
        )
    missing = ", ".join(label for label in LABELS if label not in columns)
    if "enlargedcardiomediastinum" in names:
        return (
            "is CheXpert's table, whose uncertain (-1) and blank labels are not read yet, without "
            f"a column for {missing}; {EXPECTED}"
        )
    shown = ", ".join(map(repr, sheet.header))[:300]
    return f"has no column for {missing}; its columns are {shown}; {EXPECTED}"


def _named(sheet: Sheet, names: tuple[str, ...]) -> int | None:
    header = [bare(name) for name in sheet.header]
    return next((header.index(name) for name in names if name in header), None)


def _wide(sheet: Sheet, kind: Kind, columns: list[int]) -> Table:
    """A column per label; rows of predictions without any number are set apart by their ids."""
    blank = [
        row for row in sheet.body if kind != "labels" and not any(row.cells[i] for i in columns)
    ]
    skipped = {row.line for row in blank}
    body = [row for row in sheet.body if row.line not in skipped]
    values = np.array([[_value(sheet, row, i, kind) for i in columns] for row in body])
    table = _table(sheet, kind, body, values.reshape(-1, len(LABELS)), columns)
    if not blank:
        return table
    names = [sheet.header[i] for i in columns]
    if table.id_column is None:
        raise CxrError(
            f"{sheet.path}: line {blank[0].line} has no number under {names[0]!r} to "
            f"{names[-1]!r}; remove the row, or add ids"
        )
    column = sheet.header.index(table.id_column)
    without = tuple(_ids(sheet, blank, column).tolist())
    return replace(table, without_values=without)


def _lists(sheet: Sheet, kind: Kind, column: int) -> Table:
    """All labels of an image in one cell: 14 numbers, or names or numbers of those it has."""
    name = sheet.header[column]
    for row in sheet.body:
        if not row.cells[column]:
            raise CxrError(
                f"{sheet.path}: line {row.line} has nothing in {name!r}; write [] for no finding"
            )
    cells = [row.cells[column].strip("[](){}") for row in sheet.body]
    numbers = [[sheet.number(each) for each in re.split(r"[,;|\s]+", c) if each] for c in cells]
    if all(len(each) == len(LABELS) and None not in each for each in numbers):
        values = np.array(numbers, dtype=np.float64).reshape(-1, len(LABELS))
        notes = [f"the numbers in {name!r} are read in ChestMNIST's order of labels"]
    elif kind == "labels" and any(None in each for each in numbers):
        values, notes = _of_names(sheet, column, cells), []
    elif kind == "labels" and [] in numbers:
        values = _of_indices(sheet, column, numbers)
        notes = [f"the numbers in {name!r} are read as 0 = {LABELS[0]} … 13 = {LABELS[-1]}"]
    else:
        wanted = "14 numbers" if kind != "labels" else "names of labels, or 0 or 1 for all 14,"
        raise CxrError(f"{sheet.path}: {name!r} does not hold {wanted} in every cell; {EXPECTED}")
    table = _table(sheet, kind, sheet.body, values, [column])
    return replace(table, notes=(*table.notes, *notes))


def _of_names(sheet: Sheet, column: int, cells: list[str]) -> npt.NDArray[np.float64]:
    values = np.zeros((len(cells), len(LABELS)))
    for i, cell in enumerate(cells):
        for each in re.split(r"[,;|]", cell):
            name = each.strip(" '\"")
            label = canonical(name)
            if label is not None:
                values[i, LABELS.index(label)] = 1
            elif name and bare(name) != NO_FINDING:
                raise CxrError(
                    f"{sheet.path}: line {sheet.body[i].line}: {name!r} in "
                    f"{sheet.header[column]!r} is not one of the 14 labels: {', '.join(LABELS)}"
                )
    return values


def _of_indices(
    sheet: Sheet, column: int, numbers: list[list[float | None]]
) -> npt.NDArray[np.float64]:
    """Images without findings have an empty list; where 0 says so, the numbers mean others."""
    values = np.zeros((len(numbers), len(LABELS)))
    for i, each in enumerate(numbers):
        for number in each:
            if number is None or number not in range(len(LABELS)):
                raise CxrError(
                    f"{sheet.path}: line {sheet.body[i].line}: {number:g} in "
                    f"{sheet.header[column]!r} is not a label's number from 0 to 13; write names"
                )
            values[i, int(number)] = 1
    return values


def _long(sheet: Sheet, kind: Kind, label_column: int, value_column: int) -> Table:
    """A row per image and label; rows of other labels than the 14 are ignored."""
    path = sheet.path
    labels = [canonical(row.cells[label_column]) for row in sheet.body]
    body = [row for row, label in zip(sheet.body, labels, strict=True) if label is not None]
    candidates = _columns(sheet, body[:1], [label_column, value_column])
    id_column, _ = choose_ids(list(candidates.values()))
    if not body or id_column is None:
        raise CxrError(
            f"{path} has a row per image and label, as {sheet.header[label_column]!r} says, but no "
            f"id column or none of the 14 labels; {EXPECTED}"
        )
    column = next(i for i, each in candidates.items() if each is id_column)
    names = _ids(sheet, body, column)
    ids, first, image = np.unique(names, return_index=True, return_inverse=True)
    cell = image * len(LABELS) + np.array([LABELS.index(x) for x in labels if x is not None])
    order = np.argsort(cell, kind="stable")
    repeats = np.flatnonzero(np.diff(cell[order]) == 0)
    if len(repeats):
        a, b = (body[order[i]] for i in (repeats[0], repeats[0] + 1))
        raise CxrError(
            f"{path}: lines {a.line} and {b.line} both hold {a.cells[label_column]!r} of image "
            f"{names[order[repeats[0]]]}; remove one"
        )
    values = np.full(len(ids) * len(LABELS), np.nan)
    values[cell] = [_value(sheet, row, value_column, kind) for row in body]
    missing = np.flatnonzero(np.bincount(cell, minlength=len(values)) == 0)
    if len(missing):
        which, label = divmod(int(missing[0]), len(LABELS))
        raise CxrError(f"{path} has no row for {LABELS[label]} of image {ids[which]}; add it")
    return Table(
        path,
        kind,
        values.reshape(-1, len(LABELS)),
        ids,
        None,
        id_column=id_column.name,
        source=sheet.header[value_column],
        lines=np.array([body[i].line for i in first]),
    )


def _evaluated_by_medmnist(sheet: Sheet, kind: Kind) -> Table:
    """No header; the image's row in the split, then its 14 numbers."""
    path, n_columns = sheet.path, len(sheet.header)
    if n_columns != len(LABELS) + 1 or sheet.number(sheet.header[0]) is None:
        raise CxrError(
            f"{path} has no header and {n_columns} columns; add a header that names the labels "
            f"(without one, only medmnist's row number and {len(LABELS)} numbers are read)"
        )
    sheet = sheet._replace(header=["row number", *LABELS])
    values = np.array([[_value(sheet, r, i, kind) for i in range(n_columns)] for r in sheet.rows])
    return _ordered(sheet, kind, sheet.rows, values[:, 0], values[:, 1:], None)


def _saved_by_medmnist(sheet: Sheet, kind: Kind, split: str) -> Table:
    """No header; the split, a file name that holds the row in it, then the 14 labels."""
    sheet = sheet._replace(header=["split", "file name", *LABELS])
    body, numbers = [], []
    for row in sheet.rows:
        match = SAVED_NAME.fullmatch(row.cells[1])
        if match is None:
            raise CxrError(
                f"{sheet.path}: line {row.line}: {row.cells[1]!r} is not a name that medmnist's "
                "save() writes, as in the first line"
            )
        if match[1] == split:
            body.append(row)
            numbers.append(float(match[2]))
    if not body:
        raise CxrError(f"{sheet.path} has no rows of {split}; choose a split with --split")
    columns = range(2, len(sheet.header))
    values = np.array([[_value(sheet, row, i, kind) for i in columns] for row in body])
    return _ordered(sheet, kind, body, np.array(numbers), values, _ids(sheet, body, 1))


def _ordered(
    sheet: Sheet,
    kind: Kind,
    body: list[Row],
    numbers: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    ids: Texts | None,
) -> Table:
    order = np.argsort(numbers, kind="stable")
    if (numbers[order] != np.arange(len(order))).any():
        raise CxrError(
            f"{sheet.path}: the row numbers in it must be 0, 1, 2 … without gaps; write it again"
        )
    lines = np.array([row.line for row in body])
    table = Table(
        sheet.path, kind, values, ids, None, source="medmnist", lines=lines, is_ordered=True,
        id_column=None if ids is None else sheet.header[1],
    )  # fmt: skip
    return table.take(order)


def _table(
    sheet: Sheet, kind: Kind, body: list[Row], values: npt.NDArray[np.float64], used: list[int]
) -> Table:
    """Values with the ids and patients in the columns that hold no values."""
    candidates = _columns(sheet, sheet.body, used)
    chosen, unclear = choose_ids(list(candidates.values()))
    of_ids = next((i for i, each in candidates.items() if each is chosen), None)
    of_patients = next((i for i, each in candidates.items() if is_patient(each.name)), None)
    return Table(
        sheet.path,
        kind,
        values,
        None if of_ids is None else _ids(sheet, body, of_ids),
        None if of_patients is None else _ids(sheet, body, of_patients),
        id_column=None if of_ids is None else sheet.header[of_ids],
        unclear_ids=unclear,
        source=", ".join(sheet.header[i] for i in used),
        lines=np.array([row.line for row in body], np.int64),
    )


def _columns(sheet: Sheet, body: list[Row], used: Iterable[int]) -> dict[int, Column]:
    """The columns that hold no values of labels of either kind."""
    names = {
        i: name
        for i, name in enumerate(sheet.header)
        if i not in used and label_of(name, "probs") is None and label_of(name, "labels") is None
    }
    return {
        i: Column(name, without_point_zero([row.cells[i] for row in body]))
        for i, name in names.items()
    }


def _ids(sheet: Sheet, body: list[Row], column: int) -> Texts:
    """A column of ids or patients, in which every cell must hold something."""
    name = sheet.header[column]
    for row in body:
        n = len(row.cells[column])
        if not n:
            raise CxrError(f"{sheet.path}: line {row.line} has nothing in {name!r}; add the id")
        if n > MOST_ID:
            raise CxrError(
                f"{sheet.path}: line {row.line} has {n:,} characters in {name!r}; at most "
                f"{MOST_ID} are read"
            )
    return as_ids([row.cells[column] for row in body])


def _value(sheet: Sheet, row: Row, column: int, kind: Kind) -> float:
    cell = row.cells[column]
    number = sheet.number(cell)
    if number is None and kind == "labels":
        number = TRUTHS.get(cell.lower())
    if number is not None:
        return number
    where = f"{sheet.path}: line {row.line}: {sheet.header[column]!r}"
    if cell.endswith("%"):
        raise CxrError(f"{where} holds {cell!r}; write fractions: divide by 100, without the %")
    expected = "0 or 1; missing labels are not read yet" if kind == "labels" else "a number"
    raise CxrError(f"{where} holds {repr(cell) if cell else 'nothing'}; expected {expected}")

"""Read a CSV of predictions or labels in any of the supported layouts.

One column per label; all labels of an image in one cell, as in NIH's table; one row per image and
label; and the two files that medmnist writes, without a header.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr.data.column_names import LIST_OF_LABELS, NO_FINDING
from cxr.data.ids import MOST_ID_CHARACTERS
from cxr.data.sheet import Row, Sheet, read_sheet
from cxr.errors import CxrError
from cxr.labels import CHESTMNIST, UNKNOWN, bare
from cxr.scoring.submissions.columns import (
    Column,
    Vocabulary,
    as_ids,
    choose_ids,
    is_patient,
    label_of,
    without_point_zero,
)
from cxr.scoring.submissions.table import Kind, Table, Texts

EXPECTED = "expected a column `image` and a column for each label"

# Names of columns, without separators.
LIST_OF_PREDICTIONS = (
    "predicted", "prediction", "predictions", "pred", "preds", "probs", "probabilities", "scores",
    "logits", "output", "outputs",
)  # fmt: skip
LABEL_OF_ROW = ("label", "labelname", "finding", "class", "classname", "disease", "pathology")
PREDICTION_OF_ROW = (
    "prob", "probability", "score", "logit", "pred", "predicted", "prediction", "value",
)  # fmt: skip
TRUTH_OF_ROW = ("target", "truth", "groundtruth", "present", "value")

SAVED_NAME = re.compile(r"(train|val|test)(\d+)(?:_[01]){14}\.\w+")  # by medmnist's save()


def read_csv(path: Path, kind: Kind, split: str, vocabulary: Vocabulary) -> Table:
    """The table of a CSV; CxrError names the line, the column and the fix.

    Parameters
    ----------
    split : the split whose rows to read from the CSV of medmnist's `save()`, which has several.
    """
    sheet = read_sheet(path)
    if len(sheet.header) == len(CHESTMNIST) + 2 and SAVED_NAME.fullmatch(sheet.header[1]):
        return _saved_by_medmnist(sheet, kind, split)
    n_numbers = sum(sheet.number(cell) is not None for cell in sheet.header)
    if n_numbers >= min(len(CHESTMNIST), len(sheet.header)):
        return _evaluated_by_medmnist(sheet, kind)
    columns: dict[str, int] = {}
    for i, name in enumerate(sheet.header):
        label = label_of(name, kind, vocabulary)
        if label in columns:
            raise CxrError(
                f"{path} has two columns for {label}, {sheet.header[columns[label]]!r} and "
                f"{name!r}; keep one"
            )
        if label is not None:
            columns[label] = i
    if not columns:
        values_of_rows = TRUTH_OF_ROW if kind == "labels" else PREDICTION_OF_ROW
        label_column, value_column = (_named(sheet, n) for n in (LABEL_OF_ROW, values_of_rows))
        if label_column is not None and value_column is not None:
            return _long(sheet, kind, label_column, value_column, vocabulary)
        list_column = _named(sheet, LIST_OF_LABELS if kind == "labels" else LIST_OF_PREDICTIONS)
        if list_column is not None:
            return _lists(sheet, kind, list_column, vocabulary)
    columns = {label: columns[label] for label in vocabulary.names if label in columns}
    if columns:
        return _wide(sheet, kind, columns)
    shown = ", ".join(map(repr, sheet.header))[:300]
    raise CxrError(
        f"{path} has no column of a known finding; its columns are {shown}; name columns of other "
        "labels with --also"
    )


def _named(sheet: Sheet, names: tuple[str, ...]) -> int | None:
    header = [bare(name) for name in sheet.header]
    return next((header.index(name) for name in names if name in header), None)


def _wide(sheet: Sheet, kind: Kind, labels: dict[str, int]) -> Table:
    """One column per label; rows without predictions are listed by id in `without_values`."""
    columns = list(labels.values())
    names = [sheet.header[i] for i in columns]
    blank = [
        row for row in sheet.body if kind != "labels" and not any(row.cells[i] for i in columns)
    ]
    skipped = {row.line for row in blank}
    body = [row for row in sheet.body if row.line not in skipped]
    values = np.array([[_value(sheet, row, i, kind) for i in columns] for row in body])
    table = _table(sheet, kind, body, tuple(labels), values.reshape(-1, len(labels)), columns)
    if not blank:
        return table
    if table.id_column is None:
        raise CxrError(
            f"{sheet.path}: line {blank[0].line} has no predictions in {names[0]!r} to "
            f"{names[-1]!r}; remove the row, or add ids"
        )
    column = sheet.header.index(table.id_column)
    without = tuple(_ids(sheet, blank, column).tolist())
    return replace(table, without_values=without)


def _lists(sheet: Sheet, kind: Kind, column: int, vocabulary: Vocabulary) -> Table:
    """All labels of an image in one cell: 14 values, or names or indices of the positive ones."""
    name = sheet.header[column]
    for row in sheet.body:
        if not row.cells[column]:
            raise CxrError(
                f"{sheet.path}: line {row.line}: {name!r} is empty; write [] for no finding"
            )
    cells = [row.cells[column].strip("[](){}") for row in sheet.body]
    numbers = [[sheet.number(each) for each in re.split(r"[,;|\s]+", c) if each] for c in cells]
    names = CHESTMNIST
    if all(len(each) == len(CHESTMNIST) and None not in each for each in numbers):
        values = np.array(numbers, dtype=np.float64).reshape(-1, len(CHESTMNIST))
        notes = [f"the numbers in {name!r} were read in ChestMNIST's label order"]
    elif kind == "labels" and any(None in each for each in numbers):
        names, values = _of_names(sheet, column, cells, vocabulary)
        notes = []
    elif kind == "labels" and [] in numbers:
        values = _of_indices(sheet, column, numbers)
        notes = [
            f"the numbers in {name!r} were read as 0 = {CHESTMNIST[0]} … 13 = {CHESTMNIST[-1]}"
        ]
    else:
        content = "14 numbers" if kind != "labels" else "label names, or 0 or 1 for all 14 labels"
        raise CxrError(
            f"{sheet.path}: every cell of {name!r} must hold {content}; or use a column per label"
        )
    table = _table(sheet, kind, sheet.body, names, values, [column])
    return replace(table, notes=(*table.notes, *notes))


def _of_names(
    sheet: Sheet, column: int, cells: list[str], vocabulary: Vocabulary
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Names and values of ChestMNIST's labels and of others, unless no cell names them."""
    values = np.zeros((len(cells), len(vocabulary.names)))
    for i, cell in enumerate(cells):
        for each in re.split(r"[,;|]", cell):
            name = each.strip(" '\"")
            label = vocabulary.find(name)
            if label is not None:
                values[i, vocabulary.names.index(label)] = 1
            elif name and bare(name) not in NO_FINDING:
                raise CxrError(
                    f"{sheet.path}: line {sheet.body[i].line}: {name!r} in "
                    f"{sheet.header[column]!r} is not a known label: {', '.join(vocabulary.names)}"
                )
    used = [
        i for i, name in enumerate(vocabulary.names) if name in CHESTMNIST or values[:, i].any()
    ]
    return tuple(vocabulary.names[i] for i in used), values[:, used]


def _of_indices(
    sheet: Sheet, column: int, numbers: list[list[float | None]]
) -> npt.NDArray[np.float64]:
    """Indices of positive labels, from 0; images without findings must have an empty list.

    Files that mark "No Finding" as 0 count the labels from 1.
    """
    values = np.zeros((len(numbers), len(CHESTMNIST)))
    for i, each in enumerate(numbers):
        for number in each:
            if number is None or number not in range(len(CHESTMNIST)):
                raise CxrError(
                    f"{sheet.path}: line {sheet.body[i].line}: {number:g} in "
                    f"{sheet.header[column]!r} is not a label index from 0 to 13; write label names"
                )
            values[i, int(number)] = 1
    return values


def _long(
    sheet: Sheet, kind: Kind, label_column: int, value_column: int, vocabulary: Vocabulary
) -> Table:
    """One row per image and label; rows of labels outside the vocabulary are ignored."""
    path = sheet.path
    found = [vocabulary.find(row.cells[label_column]) for row in sheet.body]
    body = [row for row, label in zip(sheet.body, found, strict=True) if label is not None]
    labels = [label for label in found if label is not None]
    candidates = _columns(sheet, body[:1], [label_column, value_column])
    id_column, _ = choose_ids(list(candidates.values()))
    if not body or id_column is None:
        raise CxrError(
            f"{path} has one row per image and label ({sheet.header[label_column]!r}), but no id "
            f"column or no known label; {EXPECTED}"
        )
    column = next(i for i, each in candidates.items() if each is id_column)
    image_names = _ids(sheet, body, column)
    ids, first, image = np.unique(image_names, return_index=True, return_inverse=True)
    names = tuple(name for name in vocabulary.names if name in set(labels))
    cell = image * len(names) + np.array([names.index(label) for label in labels])
    order = np.argsort(cell, kind="stable")
    repeats = np.flatnonzero(np.diff(cell[order]) == 0)
    if len(repeats):
        a, b = (body[order[i]] for i in (repeats[0], repeats[0] + 1))
        raise CxrError(
            f"{path}: lines {a.line} and {b.line} both hold {a.cells[label_column]!r} for image "
            f"{image_names[order[repeats[0]]]}; remove one"
        )
    values = np.full(len(ids) * len(names), float(UNKNOWN))
    values[cell] = [_value(sheet, row, value_column, kind) for row in body]
    missing = np.flatnonzero(np.bincount(cell, minlength=len(values)) == 0)
    if len(missing) and kind != "labels":
        which, label = divmod(int(missing[0]), len(names))
        raise CxrError(f"{path} has no row for {names[label]} of image {ids[which]}; add it")
    return Table(
        path,
        kind,
        names,
        values.reshape(-1, len(names)),
        ids,
        None,
        id_column=id_column.name,
        source=sheet.header[value_column],
        lines=np.array([body[i].line for i in first]),
    )


def _evaluated_by_medmnist(sheet: Sheet, kind: Kind) -> Table:
    """No header; the row number in the split, then 14 numbers."""
    path, n_columns = sheet.path, len(sheet.header)
    if n_columns != len(CHESTMNIST) + 1 or sheet.number(sheet.header[0]) is None:
        raise CxrError(
            f"{path} has no header and {n_columns} columns; add a header that names the labels "
            f"(a file without one must hold medmnist's row number and {len(CHESTMNIST)} numbers)"
        )
    rows = sheet.rows
    sheet = replace(sheet, header=["row number", *CHESTMNIST])
    values = np.array([[_value(sheet, row, i, kind) for i in range(n_columns)] for row in rows])
    return _ordered(sheet, kind, rows, values[:, 0], values[:, 1:], None)


def _saved_by_medmnist(sheet: Sheet, kind: Kind, split: str) -> Table:
    """No header; the split, a file name with the row number in the split, then 14 labels."""
    rows = sheet.rows
    sheet = replace(sheet, header=["split", "file name", *CHESTMNIST])
    body, numbers = [], []
    for row in rows:
        match = SAVED_NAME.fullmatch(row.cells[1])
        if match is None:
            raise CxrError(
                f"{sheet.path}: line {row.line}: {row.cells[1]!r} is not a file name as written by "
                "medmnist's save(), unlike that of the first line; correct it"
            )
        if match[1] == split:
            body.append(row)
            numbers.append(float(match[2]))
    if not body:
        raise CxrError(
            f"{sheet.path} has no rows of the {split} split; choose another with --split"
        )
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
            f"{sheet.path}: row numbers must be 0, 1, 2 … without gaps; write the file again"
        )
    lines = np.array([row.line for row in body])
    table = Table(
        sheet.path, kind, CHESTMNIST, values, ids, None, source="medmnist", lines=lines,
        is_ordered=True, id_column=None if ids is None else sheet.header[1],
    )  # fmt: skip
    return table.take(order)


def _table(
    sheet: Sheet,
    kind: Kind,
    body: list[Row],
    names: tuple[str, ...],
    values: npt.NDArray[np.float64],
    used: list[int],
) -> Table:
    """The table of these values, with ids and patients from the unused columns."""
    candidates = _columns(sheet, sheet.body, used)
    chosen, unclear = choose_ids(list(candidates.values()))
    id_index = next((i for i, each in candidates.items() if each is chosen), None)
    patient_index = next((i for i, each in candidates.items() if is_patient(each.name)), None)
    return Table(
        sheet.path,
        kind,
        names,
        values,
        None if id_index is None else _ids(sheet, body, id_index),
        None if patient_index is None else _ids(sheet, body, patient_index),
        id_column=None if id_index is None else sheet.header[id_index],
        unclear_ids=unclear,
        source=", ".join(sheet.header[i] for i in used),
        lines=np.array([row.line for row in body], np.int64),
    )


def _columns(sheet: Sheet, body: list[Row], used: Iterable[int]) -> dict[int, Column]:
    """The unused columns that hold neither predictions nor labels of known findings."""
    findings = Vocabulary()
    names = {
        i: name
        for i, name in enumerate(sheet.header)
        if i not in used and not any(label_of(name, kind, findings) for kind in ("probs", "labels"))
    }
    return {
        i: Column(name, without_point_zero([row.cells[i] for row in body]))
        for i, name in names.items()
    }


def _ids(sheet: Sheet, body: list[Row], column: int) -> Texts:
    """A column of ids or patients, in which no cell may be empty."""
    name = sheet.header[column]
    for row in body:
        n = len(row.cells[column])
        if not n:
            raise CxrError(f"{sheet.path}: line {row.line}: {name!r} is empty; add the id")
        if n > MOST_ID_CHARACTERS:
            raise CxrError(
                f"{sheet.path}: line {row.line}: {name!r} has {n:,} characters; ids may have at "
                f"most {MOST_ID_CHARACTERS}"
            )
    return as_ids([row.cells[column] for row in body])


def _value(sheet: Sheet, row: Row, column: int, kind: Kind) -> float:
    cell = row.cells[column]
    number = sheet.truth(cell) if kind == "labels" else sheet.number(cell)
    if number is not None:
        return number
    where = f"{sheet.path}: line {row.line}: {sheet.header[column]!r}"
    if cell.endswith("%"):
        raise CxrError(f"{where} is {cell!r}; divide by 100 and drop the percent sign")
    expected = "0 or 1, -1 or nothing if it is unknown" if kind == "labels" else "a number"
    raise CxrError(f"{where} is {repr(cell) if cell else 'empty'}; expected {expected}")

"""The columns of a table as ids, texts and labels; every problem names its row and the fix."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.attributes import MOST_CHARACTERS
from cxr.data.ids import MOST_ID_CHARACTERS, Ids
from cxr.data.sheet import Sheet, is_blank
from cxr.errors import CxrError
from cxr.formatting import count
from cxr.labels import UNKNOWN

NUMBER = re.compile(r"0|[1-9]\d{0,17}")
MOST_PROBLEMS = 10  # that are collected


class InvalidTable(CxrError):
    """A table that can't be used; the message is its first problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0])
        self.problems = tuple(problems)


def refuse(problems: Iterable[str]) -> None:
    """InvalidTable with the first problems, if there are any."""
    if found := list(islice(problems, MOST_PROBLEMS)):
        raise InvalidTable(found)


def distinct(sheet: Sheet, ids: str, key: str, used: Iterable[str]) -> Sheet:
    """The sheet without rows that repeat another one in all columns that are used.

    Parameters
    ----------
    ids : the column with the ids of images.
    key : the parameter that names it.
    used : the other columns.

    Raises
    ------
    InvalidTable
        If there are no rows, an id is empty or too long, or rows of one id differ.
    """
    if sheet.frame.empty:
        raise InvalidTable([f"{sheet.path} has no rows; expected a header and one row per image"])
    cells = sheet.column(ids, key)
    lengths = cells.str.len()
    refuse(
        f"{sheet.where(line)}: {ids!r} {f'has {n:,} characters' if n else 'is empty'}; correct it"
        for line, n in lengths[(lengths < 1) | (lengths > MOST_ID_CHARACTERS)].items()
    )
    columns = [sheet.header.index(each) for each in (ids, *used)]
    several = sheet.frame.loc[cells.duplicated(keep=False), columns]  # usually none: saves memory
    if several.empty:
        return sheet
    frame = sheet.frame.drop(index=several.index[several.duplicated()])
    cells = cells[frame.index]
    refuse(
        f"{sheet.path}: {sheet.unit}s {cells.index[cells == each][0]} and {line} differ for id "
        f"{each!r}; remove one, or set {key} to the column with the ids of images"
        for line, each in cells[cells.duplicated()].items()
    )
    return replace(sheet, frame=frame)


def too_long(sheet: Sheet, name: str, key: str) -> Iterable[str]:
    """Problems of a column of patients or of an attribute."""
    lengths = sheet.column(name, key).str.len()
    for line, n in lengths[lengths > MOST_CHARACTERS].items():
        yield (
            f"{sheet.where(line)}: {name!r} has {n:,} characters; expected at most "
            f"{MOST_CHARACTERS}"
        )


def truths(
    sheet: Sheet, name: str, key: str, uncertain: int = UNKNOWN, blank: int = UNKNOWN
) -> npt.NDArray[np.int8]:
    """A column of labels, (N,).

    Parameters
    ----------
    uncertain, blank : the value of a cell of -1 and of an empty one.

    Raises
    ------
    InvalidTable
        If a cell is not 0, 1, -1, yes, no or empty.
    """
    cells = sheet.column(name, key)
    values = {cell: sheet.truth(cell) for cell in cells.unique()}
    invalid = [cell for cell, value in values.items() if value not in (0, 1, UNKNOWN)]
    refuse(
        f"{sheet.where(rows[0])}: {name!r} is {cell!r}{rows_of(rows)}; expected 0 or 1, "
        "-1 if it is uncertain, yes or no, or nothing"
        for cell in invalid
        if len(rows := cells.index[cells == cell])
    )
    meanings = {
        cell: blank if is_blank(cell) else uncertain if value == UNKNOWN else value
        for cell, value in values.items()
    }
    return np.asarray(cells.map(meanings), np.int8)


def rows_of(rows: pd.Index) -> str:
    """The number of rows with a problem, after the first of them."""
    return f" ({count(len(rows), 'row')})" if len(rows) > 1 else ""


def patients_or_images(patients: Sequence[str], images: Sequence[str]) -> Ids:
    """Patients, (N,); an image whose patient is unknown counts as a patient of its own."""
    named = [
        f"image {image}" if is_blank(patient) else patient
        for patient, image in zip(patients, images, strict=True)
    ]
    # Numbers as numbers: resamples depend on the order of the patients.
    return np.array(named, np.int64 if all(map(NUMBER.fullmatch, named)) else str)

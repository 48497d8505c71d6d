"""The labels of a table: columns of 0 and 1, or a column that names the positive ones."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.column_names import NO_FINDING
from cxr.data.columns import InvalidTable, refuse, truths
from cxr.data.sheet import Sheet, is_blank
from cxr.labels import MOST_LABELS, UNKNOWN, bare, canonical, checked_names
from cxr.params import Table as Settings

KEY = "download.table.labels"
MEANINGS = {"unknown": UNKNOWN, "positive": 1, "negative": 0}


def read_labels(sheet: Sheet, settings: Settings) -> tuple[tuple[str, ...], npt.NDArray[np.int8]]:
    """The labels' names and values, (N, L)."""
    blank = MEANINGS[settings.blank]
    if isinstance(settings.labels, str):
        return _named_labels(sheet, settings.labels, settings.separator, blank)
    names = checked_names(list(settings.labels), KEY)
    values = []
    problems: list[str] = []
    for column in settings.labels.values():
        try:
            values.append(truths(sheet, column, KEY, MEANINGS[settings.uncertain], blank))
        except InvalidTable as error:
            problems += error.problems
    refuse(problems)
    return names, np.stack(values, axis=1)


def _named_labels(
    sheet: Sheet, column: str, separator: str, blank: int
) -> tuple[tuple[str, ...], npt.NDArray[np.int8]]:
    """Labels of a column that names the positive ones, such as `Edema|Mass`."""
    cells = sheet.column(column, KEY)
    named = {cell: names_in(cell, separator) for cell in cells.unique()}
    spellings: dict[str, str] = {}
    for name in sorted({name for each in named.values() for name in each}):
        spellings.setdefault(canonical(name) or bare(name), canonical(name) or name)
    if not spellings:
        refuse([f"{sheet.path}: no cell of {column!r} names a label; correct {KEY}"])
    if len(spellings) > MOST_LABELS:
        examples = ", ".join(map(repr, [*spellings.values()][:3]))
        refuse([
            f"{sheet.path}: {column!r} has {len(spellings):,} different labels ({examples}, …), at "
            f"most {MOST_LABELS} are possible; correct download.table.separator, or make a column "
            "of 0 and 1 for each label that you need"
        ])  # fmt: skip
    names = checked_names([*spellings.values()], f"{sheet.path}: {column!r}")
    position = {key: i for i, key in enumerate(spellings)}
    values = np.zeros((len(named), len(names)), np.int8)
    for row, (cell, each) in enumerate(named.items()):
        values[row, [position[canonical(name) or bare(name)] for name in each]] = 1
        if is_blank(cell):
            values[row] = blank
    codes = pd.Series(range(len(named)), index=[*named])
    return names, values[cells.map(codes).to_numpy()]


def names_in(cell: str, separator: str) -> list[str]:
    """The labels in a cell, without brackets and quotation marks as in a list of Python's."""
    names = [each.strip(" '\"[]") for each in cell.split(separator)]
    return [each for each in names if each and bare(each) not in NO_FINDING]

"""Tables of other readers' labels, such as radiologists', joined to images by their ids."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr.data.columns import distinct, truths
from cxr.data.ids import Ids, rows_of
from cxr.data.sheet import Sheet, read_sheet
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.labels import UNKNOWN, canonical
from cxr.params import Reading as ReadingSettings
from cxr.params import Reference as Settings
from cxr.params import named_file

KEY = "evaluate.references"


@dataclass(frozen=True)
class Reading:
    """What readers say of one finding, which is any of some labels of the data."""

    reference: str  # the table's name
    name: str
    labels: tuple[int, ...]  # columns of the data's labels
    values: dict[str, npt.NDArray[np.int8]]  # by split, (N,) of 0, 1 and UNKNOWN


def files(settings: Mapping[str, Settings], root: Path) -> dict[str, Path]:
    """The tables by name, at paths relative to `root`."""
    return {
        name: named_file(f"{KEY}.{name}.path", each.path, root) for name, each in settings.items()
    }


def read(
    settings: Mapping[str, Settings], paths: Mapping[str, Path], data: Mapping[str, Split]
) -> list[Reading]:
    """The readings of all tables for the images of all splits.

    Parameters
    ----------
    paths : of the tables, by name.

    Raises
    ------
    CxrError
        Naming the parameter, column or line and the fix. Also if no image has a row.
    """
    ids = {split: each.ids for split, each in data.items() if each.ids is not None}
    if settings and len(ids) < len(data):
        raise CxrError(f"{KEY}: the images have no ids to match the tables with; set it to {{}}")
    names = next(iter(data.values())).names
    return [
        reading
        for table, each in settings.items()
        for reading in _read(table, each, paths[table], ids, names)
    ]


def any_of(labels: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Whether any of the labels (N, K) is positive, (N,); UNKNOWN if an unknown one decides."""
    positive, unknown = (labels == 1).any(axis=1), (labels == UNKNOWN).any(axis=1)
    return np.where(positive, 1, np.where(unknown, UNKNOWN, 0)).astype(np.int8)


def _read(
    table: str, settings: Settings, path: Path, ids: Mapping[str, Ids], names: tuple[str, ...]
) -> Iterable[Reading]:
    key = f"{KEY}.{table}"
    try:
        sheet = read_sheet(path)
    except CxrError as error:
        raise CxrError(f"{key}: {error}") from None
    columns = {name: each.column or name for name, each in settings.readings.items()}
    for name, column in columns.items():
        sheet.column(column, f"{key}.readings.{name}")
    sheet = distinct(sheet, settings.id, f"{key}.id", sorted(set(columns.values())))
    cells = sheet.column(settings.id, key)
    of_all = np.concatenate([each.astype(str) for each in ids.values()])
    row_of_all = rows_of(cells.to_numpy(str), of_all)
    if (row_of_all < 0).all():
        raise CxrError(
            f"{key}: {settings.id!r} of {path} holds ids such as {cells.iloc[0]!r}, and the images "
            f"have ids such as {str(of_all[0])!r}: none match; set {key}.id to the column with "
            "the ids of images"
        )
    ends = np.cumsum([len(each) for each in ids.values()])
    rows = dict(zip(ids, np.split(row_of_all, ends[:-1]), strict=True))
    for name, each in settings.readings.items():
        values = _values(sheet, columns[name], each, f"{key}.readings.{name}")
        yield Reading(
            table,
            name,
            tuple({_column(label, names, f"{key}.readings.{name}"): 0 for label in each.labels}),
            {
                split: np.where(of_split < 0, UNKNOWN, values[of_split]).astype(np.int8)
                for split, of_split in rows.items()
            },
        )


def _column(label: str, names: tuple[str, ...], key: str) -> int:
    name = label if label in names else canonical(label)
    if name not in names:
        raise CxrError(f"{key}: {label!r} is not a label of the data: {', '.join(names)}")
    return names.index(name)


def _values(sheet: Sheet, column: str, settings: ReadingSettings, key: str) -> npt.NDArray[np.int8]:
    """A column of readings, (R,)."""
    if settings.positive is None or settings.negative is None:
        return truths(sheet, column, key)
    cells = sheet.column(column, key)
    positive, negative = cells.isin(settings.positive), cells.isin(settings.negative)
    for what, found in (("positive", positive), ("negative", negative)):
        if not found.any():
            shown = ", ".join(map(repr, cells.unique()[:5].tolist()))
            raise CxrError(f"{key}.{what}: no cell of {column!r} has this value; it has {shown}")
    return np.where(positive, 1, np.where(negative, 0, UNKNOWN)).astype(np.int8)

"""Further tables of scored images: who the patients are, and what other readers say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxr.arrays import Labels
from cxr.data import companion, references
from cxr.data.attributes import AGE, clean_ages
from cxr.data.column_names import ID_NAMES, named
from cxr.data.ids import Ids
from cxr.data.references import Reading
from cxr.data.sheet import read_sheet
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.evaluation import subgroups
from cxr.evaluation.references import EVALUATED
from cxr.evaluation.subgroups import Grouped
from cxr.labels import canonical
from cxr.params import Reference


@dataclass(frozen=True)
class ExtraTables:
    """The user's tables of the scored images; None for none."""

    companion: Path | None = None
    bands: tuple[float, ...] = ()  # ages at which groups begin
    reference: Path | None = None
    # Column of the reference -> its labels.
    readings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Joined:
    """What the tables say of the scored images."""

    patients: Ids | None
    grouped: Grouped | None
    readings: list[Reading]


def join(tables: ExtraTables, ids: Ids | None, names: tuple[str, ...], n: int) -> Joined:
    """Join the tables to N images by their ids.

    Raises
    ------
    CxrError
        If images have no ids, or a table can't be used.
    """
    if ids is None and (tables.companion or tables.reference):
        raise CxrError(
            "the images were matched by order and have no ids to join another table with; add a "
            "column `image` with ids to predictions or labels"
        )
    patients, grouped = _groups(tables, ids, n)
    return Joined(patients, grouped, [] if ids is None else _readings(tables, ids, names))


def _groups(tables: ExtraTables, ids: Ids | None, n: int) -> tuple[Ids | None, Grouped | None]:
    if tables.companion is None:
        return None, None
    settings = companion.guess(tables.companion)
    table = companion.read(settings, {"path": tables.companion})
    if table is None:
        return None, None
    joined = companion.join(table, {EVALUATED: ids}, {EVALUATED: n})
    columns = dict(zip(settings.attributes, joined.attributes[EVALUATED].T, strict=True))
    if AGE in columns:
        columns[AGE], _ = clean_ages(columns[AGE])
    patients = None if joined.patients is None else joined.patients[EVALUATED]
    return patients, subgroups.group(columns, {AGE: tables.bands} if tables.bands else {})


def _readings(tables: ExtraTables, ids: Ids, names: tuple[str, ...]) -> list[Reading]:
    if tables.reference is None:
        return []
    header = read_sheet(tables.reference).header
    image = named(header, ID_NAMES)
    if image is None:
        raise CxrError(
            f"{tables.reference}: no column is named like image ids; its columns are "
            f"{', '.join(map(repr, header))[:300]}; rename one to `image`"
        )
    given = tables.readings
    same = {
        column: (column,)
        for column in header
        if column not in given and (column in names or canonical(column) in names)
    }
    readings: dict[str, Sequence[str]] = {**same, **given}
    if not readings:
        raise CxrError(
            f"{tables.reference} has no column named like a label; say which labels a column is "
            "any of with --reading COLUMN=LABEL,LABEL"
        )
    name = tables.reference.name.partition(".")[0]
    settings = Reference.model_validate(
        {
            "path": str(tables.reference),
            "id": image,
            "readings": {column: {"labels": labels} for column, labels in readings.items()},
        }
    )
    data = {EVALUATED: split_of(np.zeros((len(ids), len(names)), np.int8), names, ids, None)}
    return references.read({name: settings}, {name: tables.reference}, data)


def split_of(
    labels: Labels, names: tuple[str, ...], ids: Ids | None, patients: Ids | None
) -> Split:
    """Scored images as a split without pixels."""
    return Split(np.empty((len(labels), 0, 0), np.uint8), labels, names, ids, patients)

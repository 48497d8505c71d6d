"""Match predictions and labels by image and bring them into the same order."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cxr.data.ids import IdMethod, Rows, pair, stem
from cxr.errors import CxrError
from cxr.scoring.submissions.table import Table, Texts

MatchMethod = IdMethod | Literal["order"]

MAX_SHOWN = 5  # ids in a note
DESCRIPTIONS: dict[MatchMethod, str] = {
    "id": "by id",
    "stem": "by file name without folder and file type",
    "number": "by number without leading zeros",
}
Counts = tuple[int, int]  # of the predictions and of the labels


@dataclass(frozen=True)
class Matched:
    """Predictions and labels of the same images in the same order."""

    predictions: Table
    labels: Table
    by: MatchMethod
    how: str  # description of the matching
    notes: tuple[str, ...] = ()
    n_left_out: Counts = (0, 0)

    @property
    def patients(self) -> Texts | None:
        """The patient of each image, if one of the two files holds patients."""
        patients = self.labels.patients
        return self.predictions.patients if patients is None else patients


def match(
    predictions: Table, labels: Table, by_order: bool = False, common: bool = False
) -> Matched:
    """Bring predictions into the order of the labels.

    By id if both files have ids; by row order if neither has, if both are columns of one file, or
    on request.

    Parameters
    ----------
    by_order : match by row order, ignoring ids.
    common : leave out images that only one file has, instead of raising an error.
    """
    if by_order and common:
        raise CxrError(
            "--by-order and --common can't be combined: --common matches by id; use one of them"
        )
    is_one_file = predictions.path == labels.path
    if is_one_file and predictions.source == labels.source:
        raise CxrError(
            f"{labels.path}: {labels.source[:200]} can't be both predictions and labels; give "
            "the file of labels with --labels"
        )
    if by_order:
        return _match_by_order(predictions, labels, "requested with --by-order", is_requested=True)
    if predictions.ids is not None and labels.ids is not None:
        return _match_by_id(predictions, labels, common)
    if is_one_file:
        return _match_by_order(predictions, labels, "predictions and labels are in one file")
    for table, other in ((predictions, labels), (labels, predictions)):
        if table.unclear_ids:
            raise CxrError(f"{table.path}: {table.unclear_ids}, or add --by-order")
        if table.ids is None and other.ids is not None and not other.is_ordered:
            raise CxrError(
                f"{table.path} has no ids, but {other.path} does ({other.id_column!r}); add ids, "
                "or add --by-order if both files hold the same images in the same order"
            )
    return _match_by_order(predictions, labels, "neither file has ids")


def _match_by_id(predictions: Table, labels: Table, common: bool) -> Matched:
    predictions, labels = _without_repeats(predictions), _without_repeats(labels)
    prediction_ids, label_ids = _ids(predictions), _ids(labels)
    blank = sorted(set(predictions.without_values) - set(prediction_ids))
    by, in_predictions, in_labels = pair(
        np.array([*prediction_ids, *blank], str), np.array(label_ids, str)
    )
    has_values = in_predictions < len(prediction_ids)
    n_unpredicted = int((~has_values).sum())
    in_predictions, in_labels = in_predictions[has_values], in_labels[has_values]
    n_only = (
        len(prediction_ids) - len(in_predictions),
        len(label_ids) - len(in_labels) - n_unpredicted,
    )
    if any(n_only) and not (common and len(in_labels)):
        raise CxrError(_difference(predictions, labels, in_predictions, in_labels, n_only))
    notes = [*predictions.notes, *labels.notes]
    if by != "id" and len(in_labels):
        a, b = prediction_ids[in_predictions[0]], label_ids[in_labels[0]]
        notes.append(f"ids are written differently in the two files: {a!r} was matched with {b!r}")
    if blank:
        names = ", ".join(blank[:MAX_SHOWN]) + (" …" if len(blank) > MAX_SHOWN else "")
        notes.append(
            f"left out {_images(len(blank))} without predictions in {predictions.path}: {names}"
        )
    if any(n_only):
        notes.append(
            f"scored the {_images(len(in_labels))} that both files have; left out {n_only[0]:,} "
            f"only in {predictions.path} and {n_only[1]:,} only in {labels.path}"
        )
    return Matched(
        predictions.take(in_predictions),
        labels.take(in_labels),
        by,
        f"{DESCRIPTIONS[by]}: {_column(predictions)} and {_column(labels)}",
        tuple(notes),
        (n_only[0] + len(blank), n_only[1] + n_unpredicted),
    )


def _difference(
    predictions: Table, labels: Table, in_predictions: Rows, in_labels: Rows, n_only: Counts
) -> str:
    """Why two files with ids do not hold the same images."""
    prediction_ids, label_ids = _ids(predictions), _ids(labels)
    if not len(in_labels):
        return (
            f"no ids match: {_column(predictions)} holds ids such as {prediction_ids[0]!r}, and "
            f"{_column(labels)} such as {label_ids[0]!r}; use the same ids in both files, or add "
            "--by-order if both hold the same images in the same order"
        )
    sides = [
        f"{n:,} only in {table.path}, such as {_first_without(table, rows)!r}"
        for n, table, rows in (
            (n_only[0], predictions, in_predictions),
            (n_only[1], labels, in_labels),
        )
        if n
    ]
    return (
        f"{predictions.path} has {_images(len(prediction_ids))} and {labels.path} has "
        f"{len(label_ids):,}: {' and '.join(sides)}; add --common to score the "
        f"{len(in_labels):,} that both files have"
    )


def _match_by_order(
    predictions: Table, labels: Table, why: str, is_requested: bool = False
) -> Matched:
    n, n_labels = len(predictions.values), len(labels.values)
    if predictions.without_values:
        raise CxrError(
            f"{predictions.path}: no prediction for {predictions.without_values[0]}; matching by "
            "row order needs one in every row; add it, or add ids to both files"
        )
    if n != n_labels:
        raise CxrError(
            f"{predictions.path} has {_images(n)} and {labels.path} has {n_labels:,}; matching by "
            "row order needs the same images in the same order in both"
        )
    notes = [*predictions.notes, *labels.notes]
    for what in ("ids", "patients"):
        a, b = getattr(predictions, what), getattr(labels, what)
        if a is None or b is None or predictions.path == labels.path:
            continue
        differing = [stem(x) != stem(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        if any(differing) and not is_requested:
            row = differing.index(True)
            raise CxrError(
                f"{predictions.path} and {labels.path} are not in the same order: in row {row + 1} "
                f"the patient is {a[row]} in one and {b[row]} in the other; add ids to both files, "
                "or add --by-order"
            )
        if any(differing):
            notes.append(f"the files hold different {what} in {sum(differing):,} of {n:,} rows")
    return Matched(predictions, labels, "order", f"by row order: {why}", tuple(notes))


def _without_repeats(table: Table) -> Table:
    """One row for each id; CxrError if two rows of an id hold different numbers."""
    ids = _ids(table)
    _, first, inverse = np.unique(np.array(ids, str), return_index=True, return_inverse=True)
    n_repeats = len(ids) - len(first)
    if not n_repeats:
        return table
    differs = (table.values != table.values[first[inverse]]).any(axis=1)
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        raise CxrError(
            f"{table.path}: {table.where(int(first[inverse[row]]))} and {table.where(row)} hold "
            f"different numbers for id {ids[row]} ({table.id_column!r}); remove one, or rename the "
            "column that holds the ids of images to `image`"
        )
    same = "1 row that repeats" if n_repeats == 1 else f"{n_repeats:,} rows that repeat"
    note = f"{table.path}: ignored {same} another row exactly"
    return replace(table.take(np.sort(first)), notes=(*table.notes, note))


def _first_without(table: Table, rows: Rows) -> str:
    ids = _ids(table)
    return ids[min(set(range(len(ids))) - set(rows.tolist()))]


def _column(table: Table) -> str:
    name = repr(table.id_column) if table.id_column else "the unnamed column"
    return f"{name} of {table.path}"


def _ids(table: Table) -> list[str]:
    return [] if table.ids is None else table.ids.tolist()


def _images(n: int) -> str:
    return f"{n:,} image{'' if n == 1 else 's'}"

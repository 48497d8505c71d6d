"""Read predictions and labels from CSV, npz and npy files, and match them by image.

One module per step: `columns` (the role of each column), `layouts` (CSV to table), `arrays` (npz
and npy to table), `table` (their common result), `matching` (two tables).
"""

from collections.abc import Iterable
from pathlib import Path

from cxr.data.column_names import ID_NAMES, NO_FINDING, PATIENT_NAMES, ROW_NUMBER_NAMES
from cxr.data.npz import NpzReader
from cxr.data.raw import label_names
from cxr.data.sheet import read_sheet
from cxr.labels import bare
from cxr.scoring.submissions.arrays import has_arrays, is_npz, read_npy, read_npz
from cxr.scoring.submissions.columns import Vocabulary, named_by_affix, without_affixes
from cxr.scoring.submissions.layouts import read_csv
from cxr.scoring.submissions.matching import Matched, MatchMethod, match
from cxr.scoring.submissions.table import Kind, Table

__all__ = [
    "Kind", "MatchMethod", "Matched", "Table", "has_arrays", "match", "other_labels",
    "read_labels", "read_predictions",
]  # fmt: skip

NOT_LABELS = (*ID_NAMES, *PATIENT_NAMES, *ROW_NUMBER_NAMES, *NO_FINDING)


def other_labels(predictions: Path, labels: Path) -> tuple[list[str], list[str]]:
    """Labels besides the known findings that both files have.

    Returns
    -------
    Names that an npz's `label_names` or an affix such as `prob_` marks as labels; and unmarked
    columns of both files, which may be anything.
    """
    known = Vocabulary()
    of_predictions = _names(predictions, "probs")
    of_labels = _names(labels, "labels")
    marked, unmarked = [], []
    for key, (name, is_marked) in of_labels.items():
        if key in of_predictions and known.find(name) is None:
            other, other_is_marked = of_predictions[key]
            if is_marked or other_is_marked:
                marked.append(name if is_marked else other)
            elif predictions != labels and key not in NOT_LABELS:
                unmarked.append(name)
    return marked, unmarked


def _names(path: Path, kind: Kind) -> dict[str, tuple[str, bool]]:
    """What may be labels in a file, by name without separators: the name, and whether it is one."""
    if is_npz(path):
        with NpzReader(path) as reader:
            return {bare(name): (name, True) for name in label_names(reader)}
    if path.suffix.lower() == ".npy":
        return {}
    names: dict[str, tuple[str, bool]] = {}
    for column in read_sheet(path).header:
        marked = named_by_affix(column, kind)
        name = marked or without_affixes(column, kind)
        if name and (marked or bare(name) not in names):
            names[bare(name)] = (name, marked is not None)
    return names


def read_predictions(
    path: Path, split: str, are_logits: bool, labels: Iterable[str] = (), exact: bool = False
) -> Table:
    """Logits or probabilities of a split; CxrError names the problem with the file and the fix.

    Parameters
    ----------
    split : the split whose arrays to read from an npz.
    are_logits : whether the values are logits, if the array's name does not say so.
    labels : names of labels to expect besides ChestMNIST's.
    exact : read from an npz only arrays that have the split in their names.
    """
    table = _read(path, split, "logits" if are_logits else "probs", labels, exact)
    table.check_probabilities()
    return table


def read_labels(path: Path, split: str, labels: Iterable[str] = (), exact: bool = False) -> Table:
    """Labels of a split, 0, 1 or unknown; arguments and errors as for `read_predictions`."""
    table = _read(path, split, "labels", labels, exact)
    table.check_labels()
    return table


def _read(path: Path, split: str, kind: Kind, labels: Iterable[str], exact: bool) -> Table:
    if is_npz(path):
        return read_npz(path, split, kind, exact)
    if path.suffix.lower() == ".npy":
        return read_npy(path, kind)
    return read_csv(path, kind, split, Vocabulary(labels))

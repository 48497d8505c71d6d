"""Read predictions and labels from CSV, npz and npy files, and match them by image.

One module per step: `columns` (the role of each column), `layouts` (CSV to table), `arrays` (npz
and npy to table), `table` (their common result), `matching` (two tables).
"""

from collections.abc import Iterable
from pathlib import Path

from cxr.scoring.submissions.arrays import has_arrays, is_npz, read_npy, read_npz
from cxr.scoring.submissions.columns import Vocabulary
from cxr.scoring.submissions.layouts import read_csv
from cxr.scoring.submissions.matching import Matched, MatchMethod, match
from cxr.scoring.submissions.table import Kind, Table

__all__ = [
    "Kind", "MatchMethod", "Matched", "Table", "has_arrays", "match", "read_labels",
    "read_predictions",
]  # fmt: skip


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

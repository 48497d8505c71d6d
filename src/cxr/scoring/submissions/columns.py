"""Find out by name and values whether a column holds ids, patients or a label."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from cxr.data.column_names import ID_NAMES, PATIENT_NAMES, ROW_NUMBER_NAMES
from cxr.data.sheet import number
from cxr.labels import CHESTMNIST, SEPARATORS, bare, canonical
from cxr.scoring.submissions.table import Kind, Texts

PREDICTION_AFFIXES = {
    "prob", "probs", "probability", "pred", "preds", "predicted", "prediction", "p", "score",
    "logit", "logits",
}  # fmt: skip
LABEL_AFFIXES = {"label", "labels", "gt", "true", "truth", "target"}

WHOLE = re.compile(r"\d+")
WHOLE_AS_FLOAT = re.compile(r"(\d+)\.0+")  # as pandas writes integers if some are missing


class Column(NamedTuple):
    """A column of strings and its name in the file."""

    name: str
    values: Sequence[str]

    @property
    def is_distinct(self) -> bool:
        """Whether no cell is empty and no value repeats."""
        return "" not in self.values and len(set(self.values)) == len(self.values)

    @property
    def is_numeric(self) -> bool:
        """Whether every cell is empty or a number."""
        return all(not cell or number(cell.replace(",", ".")) is not None for cell in self.values)

    @property
    def is_whole(self) -> bool:
        """Whether every cell is a whole number."""
        return all(map(WHOLE.fullmatch, self.values))

    @property
    def counts_rows(self) -> bool:
        """Whether the values are 0, 1, 2 … or 1, 2, 3 … in row order."""
        n = len(self.values)
        return any(
            all(value == str(i) for i, value in enumerate(self.values, start))
            for start in (0, 1)
            if n
        )


def as_ids(values: Sequence[str]) -> Texts:
    """Ids or patients as an array; every element takes the memory of the longest one."""
    return np.array(without_point_zero(values), dtype=str)


def without_point_zero(values: Sequence[str]) -> list[str]:
    """Strings stripped of spaces; 3.0 becomes 3."""
    stripped = [value.strip() for value in values]
    whole = [WHOLE_AS_FLOAT.fullmatch(value) for value in stripped]
    return [m[1] if m else v for v, m in zip(stripped, whole, strict=True)]


class Vocabulary:
    """The labels that a file may have: ChestMNIST's findings, and others by their own names."""

    def __init__(self, others: Iterable[str] = ()) -> None:
        self.names = (*CHESTMNIST, *(name for name in others if name not in CHESTMNIST))
        self._of_bare = {bare(name): name for name in reversed(self.names)}

    def find(self, text: str) -> str | None:
        """The label of this name, in any case and, for known findings, spelling."""
        text = text.strip()
        if text in self.names:
            return text
        return self._of_bare.get(bare(text)) or canonical(text)


def label_of(column: str, kind: Kind, vocabulary: Vocabulary) -> str | None:
    """The label of a column; None if it has none or belongs to the other kind of file."""
    name = without_affixes(column, kind)
    return None if name is None else vocabulary.find(column) or vocabulary.find(name)


def named_by_affix(column: str, kind: Kind) -> str | None:
    """The label in a name such as `prob_LABEL`, as written; None without such an affix."""
    affixes = "|".join(sorted(LABEL_AFFIXES if kind == "labels" else PREDICTION_AFFIXES))
    between = r"[\s._-]+"
    match = re.fullmatch(
        f"(?:{affixes}){between}(.+)|(.+?){between}(?:{affixes})", column.strip(), re.IGNORECASE
    )
    return match and (match[1] or match[2])


def without_affixes(column: str, kind: Kind) -> str | None:
    """A column's name without words such as `prob`; None if it belongs to the other kind."""
    affixes, other = PREDICTION_AFFIXES, LABEL_AFFIXES
    if kind == "labels":
        affixes, other = other, affixes
    words = SEPARATORS.split(column.strip())
    if other.intersection(word.lower() for word in words):
        return None
    return " ".join(word for word in words if word.lower() not in affixes)


def is_patient(name: str) -> bool:
    """Whether a column of this name holds patients."""
    return bare(name) in PATIENT_NAMES


def choose_ids(columns: Sequence[Column]) -> tuple[Column | None, str | None]:
    """The column that holds the ids, or why none can be chosen though some may be ids.

    In order of preference: a known name; the only column of distinct strings; distinct patients;
    the only column of distinct integers; row numbers in another order; row numbers under a known
    name. Other row numbers, such as pandas' index, are not ids: they only repeat the row order.
    """
    known = [each for each in columns if bare(each.name) in ID_NAMES]
    known.sort(key=lambda each: (not each.is_distinct, ID_NAMES.index(bare(each.name))))
    counting = [each for each in known if each.counts_rows]
    if len(counting) < len(known):
        return next(each for each in known if each not in counting), None
    others = [each for each in columns if not each.counts_rows]
    rows = [each for each in others if bare(each.name) in ROW_NUMBER_NAMES and each.is_whole]
    patients = [each for each in others if is_patient(each.name)]
    unknown = [each for each in others if each not in (*rows, *patients)]
    texts = [each for each in unknown if not each.is_numeric]
    whole = [each for each in unknown if each.is_whole]
    for candidates in (texts, patients, whole, rows):
        distinct = [each for each in candidates if each.is_distinct]
        if len(distinct) == 1:
            return distinct[0], None
        if distinct:
            return None, f"{_names(distinct)} could each hold the ids; rename the ids to `image`"
    if counting:
        return counting[0], None
    varied = [each for each in texts if len(set(each.values)) > 1]
    if not varied:
        return None, None
    return None, f"no ids found: values of {_names(varied)} repeat; rename the ids to `image`"


def _names(columns: list[Column]) -> str:
    return ", ".join(repr(each.name) for each in columns)

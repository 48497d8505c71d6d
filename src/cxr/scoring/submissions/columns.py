"""What a column is for, by its name and its values: ids, patients, or a label."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cxr.labels import SEPARATORS, bare, canonical
from cxr.scoring.submissions.rows import number
from cxr.scoring.submissions.table import Kind, Texts

# Names without separators, in order of preference.
ID_NAMES = (
    "imageindex", "imageid", "imageids", "image", "imagename", "imagenames", "imagefile",
    "imagefilename", "imagepath", "imagepaths", "img", "imgid", "imgname", "imgpath", "dicomid",
    "dicom", "sopinstanceuid", "filename", "filenames", "filepath", "file", "files", "path",
    "paths", "ids", "id", "name", "names",
)  # fmt: skip
PATIENT_NAMES = ("patients", "patient", "patientid", "patientids", "subjectid", "subject")
ROW_NUMBER_NAMES = ("", "unnamed:0", "index", "rowid", "row")  # the first ones are pandas' index

OF_PREDICTIONS = {
    "prob", "probs", "probability", "pred", "preds", "predicted", "prediction", "p", "score",
    "logit", "logits",
}  # fmt: skip
OF_LABELS = {"label", "labels", "gt", "true", "truth", "target"}

WHOLE = re.compile(r"\d+")
WHOLE_AS_FLOAT = re.compile(r"(\d+)\.0+")  # as pandas writes whole numbers beside missing ones


class Column(NamedTuple):
    """A column of texts under its name in the file."""

    name: str
    values: Sequence[str]

    @property
    def is_distinct(self) -> bool:
        """Whether every row holds something, and each something else."""
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
        """Whether it holds 0, 1, 2 … or 1, 2, 3 … from the first row to the last."""
        n = len(self.values)
        return any(
            all(value == str(i) for i, value in enumerate(self.values, start))
            for start in (0, 1)
            if n
        )


def as_ids(values: Sequence[str]) -> Texts:
    """Ids or patients as an array, which takes the longest one's memory for each."""
    return np.array(without_point_zero(values), dtype=str)


def without_point_zero(values: Sequence[str]) -> list[str]:
    """Texts without spaces around them; 3.0 is 3."""
    stripped = [value.strip() for value in values]
    whole = [WHOLE_AS_FLOAT.fullmatch(value) for value in stripped]
    return [m[1] if m else v for v, m in zip(stripped, whole, strict=True)]


def label_of(column: str, kind: Kind) -> str | None:
    """The label that a column is for, None if it is for none, or for the other kind of file."""
    mine, other = OF_PREDICTIONS, OF_LABELS
    if kind == "labels":
        mine, other = other, mine
    words = SEPARATORS.split(column.strip().lower())
    if other.intersection(words):
        return None
    return canonical(" ".join(word for word in words if word not in mine))


def is_patient(name: str) -> bool:
    """Whether a column of this name says whose image it is."""
    return bare(name) in PATIENT_NAMES


def choose_ids(columns: Sequence[Column]) -> tuple[Column | None, str | None]:
    """The column that holds the ids, or why none can be chosen though there may be ids.

    In order: a known name; the only column of distinct texts; distinct patients; the only column of
    distinct whole numbers; row numbers in another order; row numbers under a known name. Others, as
    every table of pandas has them, are not ids: they say no more than the order does.
    """
    known = [each for each in columns if bare(each.name) in ID_NAMES]
    known.sort(key=lambda each: (not each.is_distinct, ID_NAMES.index(bare(each.name))))
    counting = [each for each in known if each.counts_rows]
    if len(counting) < len(known):
        return next(each for each in known if each not in counting), None
    telling = [each for each in columns if not each.counts_rows]
    rows = [each for each in telling if bare(each.name) in ROW_NUMBER_NAMES and each.is_whole]
    patients = [each for each in telling if is_patient(each.name)]
    unknown = [each for each in telling if each not in (*rows, *patients)]
    texts = [each for each in unknown if not each.is_numeric]
    whole = [each for each in unknown if each.is_whole]
    for candidates in (texts, patients, whole, rows):
        distinct = [each for each in candidates if each.is_distinct]
        if len(distinct) == 1:
            return distinct[0], None
        if distinct:
            return None, _unclear(distinct, "each of which could hold the ids")
    if counting:
        return counting[0], None
    varied = [each for each in texts if len(set(each.values)) > 1]
    return None, _unclear(varied, "whose values repeat") if varied else None


def _unclear(columns: list[Column], why: str) -> str:
    names = ", ".join(repr(each.name) for each in columns)
    return f"it is not clear where the ids are: there is {names}, {why}; rename the ids to `image`"

"""The table of predictions or labels that every file format is read into."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from cxr.data.ids import Rows
from cxr.errors import CxrError
from cxr.labels import UNKNOWN

Kind = Literal["logits", "probs", "labels"]
Texts = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Table:
    """One value per image and label."""

    path: Path
    kind: Kind
    names: tuple[str, ...]  # (L,), of the labels
    values: npt.NDArray[np.float64]  # (N, L); labels are 0, 1 or UNKNOWN
    ids: Texts | None  # (N,), as written
    patients: Texts | None  # (N,)
    id_column: str | None = None  # the CSV column or npz array of the ids
    unclear_ids: str | None = None  # why none was chosen, if the file may have ids
    source: str = ""  # columns or array of the values
    lines: Rows | None = None  # (N,), lines of a CSV where the rows end
    is_ordered: bool = False  # the file states each row's position in the split
    without_values: tuple[str, ...] = ()  # ids of rows without predictions
    notes: tuple[str, ...] = ()

    def image(self, row: int) -> str:
        """The image of a row, as named in messages."""
        return self.where(row) if self.ids is None else f"image {self.ids[row]}"

    def where(self, row: int) -> str:
        """The line of a CSV or the row of an array."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def take(self, rows: Rows) -> Self:
        """The table of these rows, in this order."""

        def select(column: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
            return None if column is None else column[rows]

        return replace(
            self,
            values=self.values[rows],
            ids=select(self.ids),
            patients=select(self.patients),
            lines=select(self.lines),
        )

    def of_labels(self, names: tuple[str, ...]) -> Self:
        """The table of these labels, in this order."""
        columns = [self.names.index(name) for name in names]
        return replace(self, names=names, values=np.ascontiguousarray(self.values[:, columns]))

    def check_probabilities(self) -> None:
        """CxrError with a fix if a value is not finite or a probability is not in [0, 1]."""
        self._check_finite("a finite number")
        wrong = np.argwhere((self.values < 0) | (self.values > 1))
        if self.kind != "probs" or not len(wrong):
            return
        if self.values.min() < 0 and self.path.suffix.lower() == ".npz" and "prob" in self.source:
            fix = "if the numbers are logits, name the array `logits`"
        elif self.values.min() < 0:
            fix = "if the numbers are logits, add --logits"
        elif 2 < self.values.max() <= 100:
            fix = "if the numbers are percentages, divide them by 100"
        else:
            fix = "correct the value"
        raise CxrError(f"{self._cell(*wrong[0])}; expected a probability from 0 to 1; {fix}")

    def check_labels(self) -> None:
        """CxrError with a fix if a label is not 0, 1 or unknown."""
        self._check_rows()
        wrong = np.argwhere(~np.isin(self.values, (0, 1, UNKNOWN)))
        if len(wrong):
            raise CxrError(
                f"{self._cell(*wrong[0])}; expected 0 or 1, -1 or nothing if it is unknown"
            )

    def _check_rows(self) -> None:
        if not len(self.values):
            raise CxrError(f"{self.path} has no rows; expected one row per image")

    def _check_finite(self, expected: str) -> None:
        self._check_rows()
        wrong = np.argwhere(~np.isfinite(self.values))
        if len(wrong):
            n = f" ({len(wrong):,} such values)" if len(wrong) > 1 else ""
            raise CxrError(f"{self._cell(*wrong[0])}{n}; expected {expected}")

    def _cell(self, row: int, label: int) -> str:
        line = "" if self.lines is None or self.ids is None else f"{self.where(row)}: "
        return (
            f"{self.path}: {line}{self.names[label]} of {self.image(row)} is "
            f"{self.values[row, label]:g}"
        )

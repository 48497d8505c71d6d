"""Read a table as text: CSV or TSV, also gzipped, and Parquet.

The csv module reads CSVs, since pandas fills rows that are too short without an error.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
from pyarrow import compute, parquet

from cxr.documents import check_content_is_no_lfs_pointer, read_within
from cxr.errors import CxrError
from cxr.labels import canonical

MOST_BYTES = (
    2**28
)  # uncompressed; eight times ChestMNIST's 112,120 images with 17 digits per number
MAX_COLUMNS = 300  # 100 labels under two prefixes, and further columns
ROWS_AT_ONCE = 10_000  # as Python objects, which take ten times the memory
TRUTHS = {
    "true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "y": 1.0, "n": 0.0,
    "positive": 1.0, "negative": 0.0, "uncertain": -1.0,
}  # fmt: skip

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
STATED_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # in Excel's first line
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)


class Row(NamedTuple):
    """One row, with the number of the line where it ends."""

    line: int
    cells: list[str]  # stripped of spaces


@dataclass(frozen=True)
class Sheet:
    """The cells of a table as text without spaces around it; each row has a cell per column."""

    path: Path
    header: list[str]
    header_line: int
    # Columns 0, 1, 2 …, since names may repeat. The index is the line of a CSV where the row ends,
    # or the number of a row of a Parquet file.
    frame: pd.DataFrame
    delimiter: str = ""  # empty for Parquet

    @cached_property
    def body(self) -> list[Row]:
        """The rows below the header."""
        return [Row(line, cells) for line, *cells in self.frame.itertuples(name=None)]

    @property
    def rows(self) -> list[Row]:
        """The rows of a table without a header."""
        return [Row(self.header_line, self.header), *self.body]

    @property
    def unit(self) -> str:
        """What the index counts."""
        return "line" if self.delimiter else "row"

    def where(self, line: int) -> str:
        """A row as named in messages."""
        return f"{self.path}: {self.unit} {line}"

    def column(self, name: str, key: str) -> pd.Series:
        """The cells of a column.

        Parameters
        ----------
        key : the parameter that names it, for messages.

        Raises
        ------
        CxrError
            If there is no such column, or there are two.
        """
        if self.header.count(name) != 1:
            problem = "two columns" if name in self.header else "no column"
            shown = ", ".join(map(repr, self.header))[:300]
            raise CxrError(f"{key}: {self.path} has {problem} {name!r}; its columns are {shown}")
        return self.frame[self.header.index(name)]

    def number(self, cell: str) -> float | None:
        """A cell as a number, or None; allows decimal commas if commas don't separate cells."""
        if self.delimiter != "," and DECIMAL_COMMA.fullmatch(cell):
            cell = cell.replace(",", ".")
        return number(cell)

    def truth(self, cell: str) -> float | None:
        """A cell of a label as a number, -1 if it is empty; None if it is neither."""
        if is_blank(cell):
            return -1.0
        value = TRUTHS.get(cell.lower())
        return self.number(cell) if value is None else value


def is_blank(cell: str) -> bool:
    """Whether a cell holds nothing, or what pandas writes for nothing."""
    return cell.lower() in ("", "nan")


def number(cell: str) -> float | None:
    """A cell as a number, or None; `00000013_005`, a number to Python, is an id of NIH."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def read_sheet(path: Path) -> Sheet:
    """The rows of a table without blank lines and comments; CxrError if it can't be read."""
    try:
        content = read_within(path, MOST_BYTES)  # whole: a line may be endless
        if content.startswith(GZIP):
            content = _decompressed(content)
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise CxrError(f"{path} is a folder; expected a file") from None
    except OSError as error:
        raise CxrError(f"{path} can't be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zlib.error) as error:  # too large, cut short, an invalid name
        raise CxrError(f"{path} can't be read: {error}") from None
    return _parquet(path, content) if content.startswith(PARQUET) else _csv(path, content)


def _csv(path: Path, content: bytes) -> Sheet:
    lines = io.StringIO(_decoded(path, content), newline="")
    first, n_before, delimiter = _first_line(lines)
    reader = csv.reader(chain([first], lines), delimiter=delimiter)
    rows = _rows(path, reader, n_before)
    header = next(rows, None)
    if header is None:
        raise CxrError(f"{path} is empty; expected a header and one row per image")
    width = len(header.cells)
    if width > MAX_COLUMNS:
        raise CxrError(f"{path} has {width:,} columns; the maximum is {MAX_COLUMNS}")
    parts = []
    while part := list(islice(rows, ROWS_AT_ONCE)):
        cells = [_fitted(path, row, header.cells) for row in part]
        parts.append(pd.DataFrame(cells, [row.line for row in part], range(width), "str"))
    frame = pd.concat(parts) if parts else pd.DataFrame(columns=range(width), dtype="str")
    return Sheet(path, header.cells, header.line, frame, delimiter)


def _rows(path: Path, reader: Any, n_before: int) -> Iterator[Row]:
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield Row(n_before + reader.line_num, stripped)
    except csv.Error:
        raise CxrError(
            f"{path}: line {n_before + reader.line_num} has a cell of more than "
            f"{csv.field_size_limit():,} characters; check for a missing quotation mark"
        ) from None


def _fitted(path: Path, row: Row, header: list[str]) -> list[str]:
    """As many cells as the header; CxrError if one with a name is missing or others follow.

    NIH's BBox_List_2017.csv has three empty cells at the end of its header, and none in its rows.
    """
    width = len(header)
    missing = header[len(row.cells) :]
    if any(missing) or any(row.cells[width:]):
        raise CxrError(
            f"{path}: line {row.line} has {len(row.cells)} cells and the first row has "
            f"{width}; every row needs the same number of cells"
        )
    return row.cells[:width] + missing


def _parquet(path: Path, content: bytes) -> Sheet:
    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        names, n_rows = file.schema_arrow.names, file.metadata.num_rows
        if len(names) > MAX_COLUMNS:
            raise CxrError(f"{path} has {len(names):,} columns; the maximum is {MAX_COLUMNS}")
        _check_size(path, 8 * n_rows * len(names))
        # Texts as a dictionary and indices: a small file may repeat a long text many times.
        table = parquet.read_table(pa.BufferReader(content), read_dictionary=names)
        _check_size(path, sum(map(_n_bytes, table.columns)))
        columns = {i: _texts(path, table, i) for i in range(len(names))}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CxrError(f"{path} is a damaged Parquet file: {str(error).splitlines()[0]}") from None
    frame = pd.DataFrame(columns, dtype="str")
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return Sheet(path, [name.strip() for name in names], 0, frame)


def _check_size(path: Path, n_bytes: int) -> None:
    if n_bytes > MOST_BYTES:
        raise CxrError(f"{path} can't be read: it has more than {MOST_BYTES:,} bytes uncompressed")


def _n_bytes(column: pa.ChunkedArray) -> int:
    """The size of a column's texts, each as often as it occurs; 0 for other columns."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if kind == column.type or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return 0
    lengths = (compute.binary_length(c.dictionary).take(c.indices) for c in column.chunks)
    return sum(compute.sum(each).as_py() or 0 for each in lengths)


def _texts(path: Path, table: pa.Table, i: int) -> pd.Series:
    name, kind = table.column_names[i], table.schema.field(i).type
    try:
        texts = table.column(i).cast(pa.large_string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise CxrError(
            f"{path}: column {name!r} has the type {kind}; save it as text or numbers"
        ) from None
    return texts.fill_null("").to_pandas().str.strip()


def _decompressed(content: bytes) -> bytes:
    with gzip.open(io.BytesIO(content)) as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes uncompressed")
    return text


def _decoded(path: Path, content: bytes) -> str:
    check_content_is_no_lfs_pointer(path, content)
    encoding = "utf-16" if content.startswith(UTF_16) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CxrError(
            f"{path}: line {line} is not valid {encoding.upper().removesuffix('-SIG')}; save the "
            "file as CSV in UTF-8, or convert it: iconv -f cp1252 -t utf-8"
        ) from None


def _first_line(lines: io.StringIO) -> tuple[str, int, str]:
    """The first line that is neither blank nor a comment, its index, and the delimiter."""
    stated = None
    for n_before, line in enumerate(lines):
        if match := STATED_DELIMITER.fullmatch(line):
            stated = match[1]
        elif line.strip(" \t\r\n,;") and not _is_comment(line):
            return line, n_before, stated or _delimiter(line)
    return "", 0, stated or ","


def _is_comment(line: str) -> bool:
    """Whether a line starts with #, unless it names a label: then it is a header."""
    words = re.split(r'[,;\t"]', line)
    return line.lstrip(' "').startswith("#") and not any(map(canonical, words))


def _delimiter(line: str) -> str:
    """Comma, semicolon or tab, whichever gives the most cells."""
    return max(",;\t", key=lambda each: len(next(csv.reader([line], delimiter=each), [])))

"""Read a CSV file, also gzipped, as rows of text cells: encoding, delimiter, comments."""

import codecs
import csv
import gzip
import io
import re
import zlib
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from cxr.documents import check_content_is_no_lfs_pointer, read_within
from cxr.errors import CxrError
from cxr.labels import canonical

MAX_CSV_BYTES = 2**27  # four times ChestMNIST's 112,120 images with 17 digits per number
MAX_COLUMNS = 300  # 100 labels under two prefixes, and further columns
TRUTHS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "": -1.0, "nan": -1.0}  # -1: unknown

GZIP = b"\x1f\x8b"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
STATED_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # in Excel's first line
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)


class Row(NamedTuple):
    """One row of a CSV, with the number of the line where it ends."""

    line: int
    cells: list[str]  # stripped of spaces


class Sheet(NamedTuple):
    """All rows of a CSV; each has as many cells as the first."""

    path: Path
    header: list[str]
    rows: list[Row]  # including the header
    delimiter: str

    @property
    def body(self) -> list[Row]:
        """The rows below the header."""
        return self.rows[1:]

    def number(self, cell: str) -> float | None:
        """A cell as a number, or None; allows decimal commas if commas don't separate cells."""
        if self.delimiter != "," and DECIMAL_COMMA.fullmatch(cell):
            cell = cell.replace(",", ".")
        return number(cell)

    def truth(self, cell: str) -> float | None:
        """A cell of a label as a number, -1 if it is empty; None if it is neither."""
        value = TRUTHS.get(cell.lower())
        return self.number(cell) if value is None else value


def number(cell: str) -> float | None:
    """A cell as a number, or None; `00000013_005`, a number to Python, is an id of NIH."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def read_sheet(path: Path) -> Sheet:
    """The rows of a CSV file without blank lines and comments; CxrError if it can't be read."""
    try:
        content = read_within(path, MAX_CSV_BYTES)  # whole: a line may be endless
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
    text = _decoded(path, content)
    lines = io.StringIO(text, newline="")
    first, n_before, delimiter = _first_line(lines)
    rows = []
    reader = csv.reader(chain([first], lines), delimiter=delimiter)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append(Row(n_before + reader.line_num, stripped))
    except csv.Error:
        raise CxrError(
            f"{path}: line {n_before + reader.line_num} has a cell of more than "
            f"{csv.field_size_limit():,} characters; check for a missing quotation mark"
        ) from None
    if not rows:
        raise CxrError(f"{path} is empty; expected a header and one row per image")
    _check_widths(path, rows)
    return Sheet(path, rows[0].cells, rows, delimiter)


def _decompressed(content: bytes) -> bytes:
    with gzip.open(io.BytesIO(content)) as file:
        text = file.read(MAX_CSV_BYTES + 1)
    if len(text) > MAX_CSV_BYTES:
        raise ValueError(f"it has more than {MAX_CSV_BYTES:,} bytes uncompressed")
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
            "file as CSV in UTF-8"
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


def _check_widths(path: Path, rows: list[Row]) -> None:
    """Drop empty cells beyond the header; CxrError if a row still has another length."""
    width = len(rows[0].cells)
    if width > MAX_COLUMNS:
        raise CxrError(f"{path} has {width:,} columns; the maximum is {MAX_COLUMNS}")
    for row in rows:
        if len(row.cells) < width or any(row.cells[width:]):
            raise CxrError(
                f"{path}: line {row.line} has {len(row.cells)} cells and the first row has "
                f"{width}; every row needs the same number of cells"
            )
        del row.cells[width:]

"""A CSV file as rows of text cells, whichever program wrote it."""

import codecs
import csv
import io
import re
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from cxr.documents import check_content_is_no_lfs_pointer, read_within
from cxr.errors import CxrError
from cxr.labels import canonical

MOST_CSV_BYTES = 2**27  # four times ChestMNIST's 112,120 images with 17 digits a number
MOST_CELLS = 200  # of a line: labels under several prefixes, and what others add

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
STATED_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's first line
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)


class Row(NamedTuple):
    """One row of a CSV, and the line of the file where it ends."""

    line: int
    cells: list[str]  # without spaces around them


class Sheet(NamedTuple):
    """All rows of a CSV, each with as many cells as the first."""

    path: Path
    header: list[str]
    rows: list[Row]  # the first one is that of the header
    delimiter: str

    @property
    def body(self) -> list[Row]:
        """The rows below the header."""
        return self.rows[1:]

    def number(self, cell: str) -> float | None:
        """What a cell says as a number; decimal commas count if commas don't separate cells."""
        if self.delimiter != "," and DECIMAL_COMMA.fullmatch(cell):
            cell = cell.replace(",", ".")
        return number(cell)


def number(cell: str) -> float | None:
    """What a cell says as a number; `00000013_005`, which Python reads as one, is an id of NIH."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def read(path: Path) -> Sheet:
    """The rows of a CSV file, without blank ones and comments; CxrError if it is not one."""
    try:
        text = _decoded(path, read_within(path, MOST_CSV_BYTES))  # not by lines: one may not end
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise CxrError(f"{path} is a folder; expected an npz, npy or CSV file") from None
    except OSError as error:
        raise CxrError(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:  # too many bytes, or a name that no file has
        raise CxrError(f"{path} can't be read: {error}") from None
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
        raise CxrError(f"{path} is empty; expected a header and a row per image")
    _check_widths(path, rows)
    return Sheet(path, rows[0].cells, rows, delimiter)


def _decoded(path: Path, content: bytes) -> str:
    check_content_is_no_lfs_pointer(path, content)
    encoding = "utf-16" if content.startswith(UTF_16) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CxrError(
            f"{path}: line {line} is not text in {encoding.upper().removesuffix('-SIG')}; save the "
            "file as npz, npy, or CSV in UTF-8"
        ) from None


def _first_line(lines: io.StringIO) -> tuple[str, int, str]:
    """The first line that is not blank or a comment, the number of lines before it, a delimiter."""
    stated = None
    for n_before, line in enumerate(lines):
        if match := STATED_DELIMITER.fullmatch(line):
            stated = match[1]
        elif line.strip(" \t\r\n,;") and not _is_comment(line):
            return line, n_before, stated or _delimiter(line)
    return "", 0, stated or ","


def _is_comment(line: str) -> bool:
    """Whether a line starts with #; one that names a label is a header behind a #."""
    words = re.split(r'[,;\t"]', line)
    return line.lstrip(' "').startswith("#") and not any(map(canonical, words))


def _delimiter(line: str) -> str:
    """Comma, semicolon or tab: whichever separates the most cells."""
    return max(",;\t", key=lambda each: len(next(csv.reader([line], delimiter=each), [])))


def _check_widths(path: Path, rows: list[Row]) -> None:
    """Cut empty cells beyond the header off; CxrError for rows that differ from it otherwise."""
    width = len(rows[0].cells)
    if width > MOST_CELLS:
        raise CxrError(f"{path} has {width:,} columns; at most {MOST_CELLS} are read")
    for row in rows:
        if len(row.cells) < width or any(row.cells[width:]):
            raise CxrError(
                f"{path}: line {row.line} has {len(row.cells)} cells and the first row has "
                f"{width}; every row needs the same number of cells"
            )
        del row.cells[width:]

"""`images.csv` next to a raw file: the file that each image was read from, or why it was not."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cxr.documents import read_output, write_atomically

FILE = "images.csv"
NO_FILE = "no file"  # the problem of an image that only the table has
MOST_NAMED = 100  # images in the data report; the file names all


class Entry(NamedTuple):
    """One image; the fields are the columns."""

    image: str  # id; of a row without a file, the file name
    split: str  # empty without a file
    file: str  # starts with one of `download.table.folders`
    md5: str  # of the file
    assumed: str  # what was assumed to read it, as JSON: topic -> text; empty if nothing
    problem: str  # why it was left out; empty if it was not


def write(entries: Iterable[Entry], folder: Path) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Entry._fields, *entries])
    write_atomically(folder / FILE, text.getvalue().encode(errors="surrogateescape"))


def read(folder: Path) -> list[Entry]:
    """The entries of a raw file that was made from a table."""

    def rows(path: Path) -> list[list[str]]:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            try:
                return list(csv.reader(file))[1:]
            except csv.Error as error:
                raise ValueError(str(error)) from None

    return read_output(folder / FILE, lambda read: [Entry(*row) for row in read], rows)


def describe(entries: list[Entry]) -> dict[str, Any]:
    """Images that were read and left out, and the number for which something was assumed."""
    problems = {each.image: each.problem for each in entries if each.problem}
    assumed = Counter(
        topic for each in entries if each.assumed for topic in json.loads(each.assumed)
    )
    n_missing = sum(problem == NO_FILE for problem in problems.values())
    return {
        "read": len(entries) - len(problems),
        "without_file": n_missing,
        "unreadable": len(problems) - n_missing,
        "left_out": dict(
            sorted(problems.items(), key=lambda item: item[1] == NO_FILE)[:MOST_NAMED]
        ),
        "assumed": dict(sorted(assumed.items())),
    }

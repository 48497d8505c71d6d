"""What a table of images would be read as: a proposal of `download.table`, and a preview."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.data.column_names import (
    ATTRIBUTE_NAMES,
    ID_NAMES,
    LIST_OF_LABELS,
    NO_FINDING,
    PATIENT_NAMES,
    ROW_NUMBER_NAMES,
    SPLIT_COLUMN_NAMES,
    named,
)
from cxr.data.columns import MOST_PROBLEMS, InvalidTable
from cxr.data.ids import stem
from cxr.data.images import files
from cxr.data.images.find import files_below
from cxr.data.sheet import Sheet, is_blank, read_sheet
from cxr.data.splits import SPLITS
from cxr.data.table import listing
from cxr.data.table.divide import SPLIT_NAMES
from cxr.data.table.labels import names_in
from cxr.data.table.listing import Listing
from cxr.errors import CxrError
from cxr.formatting import count
from cxr.labels import MOST_LABELS, UNKNOWN, bare, canonical
from cxr.params import Params
from cxr.params import Table as Settings

SEPARATORS = ("|", ";", ",")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}  # of NIH's release
NOT_FOUND = "?"  # stands for a column that could not be guessed
SAMPLE = 20  # images that are read
MOST_SPELLINGS = 10  # of positive, negative and unknown
LEAST_TRUTHS = 0.9  # share of cells
REPEATS = 3  # how often a text must occur on average to be the name of a label


@dataclass(frozen=True)
class Preview:
    """What the download stage would read."""

    rows: int
    settings: Settings
    listing: Listing | None  # None if the problems prevent it
    problems: list[str]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The content of `cxr table --json`."""
        read = self.listing
        return {
            "rows": self.rows,
            "table": self.settings.model_dump(),
            "splits": {} if read is None else {s: describe(read, s) for s in SPLITS},
            "without_file": None if read is None else len(read.missing),
            "problems": self.problems,
            "notes": self.notes,
        }


def describe(read: Listing, split: str) -> dict[str, Any]:
    """Images, patients and values of each label in a split."""
    rows = read.splits == split
    labels = read.labels[rows]
    return {
        "images": int(rows.sum()),
        "patients": None if read.patients is None else len(np.unique(read.patients[rows])),
        "labels": {
            name: {
                "positive": int((values == 1).sum()),
                "negative": int((values == 0).sum()),
                "unknown": int((values < 0).sum()),
            }
            for name, values in zip(read.label_names, labels.T, strict=True)
        },
    }


def preview(settings: Settings, path: str, root: Path, params: Params) -> Preview:
    """Read a table as the download stage would, and a sample of its images.

    Parameters
    ----------
    params : their seed, and the images that get heat maps.
    """
    paths = listing.files(settings, path, root)
    sheet = read_sheet(paths["path"])
    shown = ", ".join(map(repr, sheet.header))[:300]
    problems = [
        f"no column was recognised for download.table.{key.partition('.')[0]}; the columns are "
        f"{shown}"
        for key, column in listing.columns(settings).items()
        if column == NOT_FOUND
    ]
    if problems:
        return Preview(len(sheet.frame), settings, None, problems, [])
    try:
        # Rows without a file are a problem, too, but should not hide the others.
        skipping = settings.model_copy(update={"on_bad_image": "skip"})
        read = listing.read(skipping, paths, root, params.download.seed)
    except CxrError as error:
        problems = [*error.problems] if isinstance(error, InvalidTable) else [str(error)]
        return Preview(len(sheet.frame), settings, None, problems, [])
    unusable, notes = _sample(read)
    notes = [*_notes(sheet, read, settings), *notes]
    found = [params.gradcam.out_of_range(read.n)]
    if settings.on_bad_image == "skip":
        notes += unusable
    else:
        missing = listing.missing_files(sheet, read.missing, settings) if read.missing else None
        found = [missing, *found, *unusable]
    problems = [each for each in found if each][:MOST_PROBLEMS]
    return Preview(len(sheet.frame), settings, read, problems, notes)


def propose(path: Path, folders: Sequence[Path], base: Settings) -> Settings:
    """`download.table` for a table, as far as it can be guessed from names and values.

    Parameters
    ----------
    folders : with the images.
    base : values of the keys that a table does not determine.
    """
    sheet = read_sheet(path)
    unused = [name for name in sheet.header if name and sheet.header.count(name) == 1]

    def take(name: str | None) -> str | None:
        if name in unused:
            unused.remove(name)
        return name

    image = take(_image(sheet, unused, folders))
    patient = take(named(unused, PATIENT_NAMES))
    split = take(_split(sheet, unused))
    attributes = {
        key: column
        for key, names in ATTRIBUTE_NAMES.items()
        if (column := take(named(unused, names)))
    }
    labels, separator = _labels(sheet, unused)
    lists = {key: str(path.parent / name) for key, name in LISTS.items()}
    has_lists = all(Path(name).is_file() for name in lists.values())
    found = {
        "image": image or NOT_FOUND,
        "folders": tuple(map(str, folders)),
        "labels": labels,
        "separator": separator or base.separator,
        "patient": patient or _patient_pattern(sheet, image),
        "split": split or (lists if has_lists else None),
        "attributes": attributes,
        "blank": _blank(sheet, labels),
    }
    return Settings.model_validate(base.model_dump() | found)


def _image(sheet: Sheet, names: Sequence[str], folders: Sequence[Path]) -> str | None:
    """The column that names most of the images, or is named like ids."""
    paths = (path for folder in folders for path in files_below(folder))
    stems = {stem(path) for path in paths}
    n_found = {
        name: sum(stem(cell) in stems for cell in set(sheet.column(name, "")) if cell)
        for name in names
    }
    best = max(n_found, key=lambda name: n_found[name], default=None)
    return best if best is not None and n_found[best] else named(names, ID_NAMES)


def _split(sheet: Sheet, names: Sequence[str]) -> str | None:
    name = named(names, SPLIT_COLUMN_NAMES)
    is_split = name is not None and set(sheet.column(name, "").str.lower()) <= set(SPLIT_NAMES)
    return name if is_split else None


def _patient_pattern(sheet: Sheet, image: str | None) -> dict[str, str] | None:
    """The folder of a patient in paths such as CheXpert's and MIMIC-CXR's."""
    for pattern in (r"(?:^|/)(patient\d+)/", r"(?:^|/)(p\d{8})/"):
        found = sheet.column(image, "").str.extract(pattern)[0] if image else pd.Series()
        if found.notna().all() and found.nunique() > 1:
            return {"regex": pattern}
    return None


def _labels(sheet: Sheet, names: Sequence[str]) -> tuple[str | dict[str, str], str | None]:
    """Columns of truth values, or a column of names and its separator."""
    truths = [name for name in names if _is_label(sheet, name)]
    scores = _columns_of_names(sheet, [name for name in names if name not in truths])
    best = max(scores, key=lambda key: scores[key], default=None)
    is_sure = best is not None and any(scores[best][:2])
    if truths and (any(map(canonical, truths)) or not is_sure):
        return {name: name for name in truths[:MOST_LABELS]}, None
    return best or (NOT_FOUND, None)


def _is_label(sheet: Sheet, name: str) -> bool:
    """Whether nearly all values are truth values; the others are problems to show."""
    if bare(name) in (*ROW_NUMBER_NAMES, *NO_FINDING):
        return False
    counts = sheet.column(name, "").value_counts()
    filled = counts[[not is_blank(cell) for cell in counts.index]]
    values = {cell: sheet.truth(cell) for cell in filled.index[:MOST_SPELLINGS]}
    truths = [cell for cell, value in values.items() if value in (0, 1, UNKNOWN)]
    is_constant = len(counts) == 1
    is_truth = filled[truths].sum() >= LEAST_TRUTHS * filled.sum()
    return 1 in values.values() and bool(is_truth) and not is_constant


def _columns_of_names(
    sheet: Sheet, names: Sequence[str]
) -> dict[tuple[str, str], tuple[int, bool, bool, int]]:
    """How well columns and separators give names of labels.

    By the number of names of known findings, whether the column is named so, whether the separator
    occurs, and the number of different names.
    """
    scores = {}
    for name in names:
        cells = sheet.column(name, "")
        for separator in SEPARATORS:
            texts = Counter(each for cell in cells for each in names_in(cell, separator))
            n_known = sum(n for text, n in texts.items() if canonical(text))
            is_named = bare(name) in LIST_OF_LABELS
            is_used = any(separator in cell for cell in cells)
            is_short = 1 <= len(texts) <= MOST_LABELS and texts.total() >= REPEATS * len(texts)
            if is_short and (n_known or is_named or is_used):
                scores[name, separator] = (n_known, is_named, is_used, len(texts))
    return scores


def _blank(sheet: Sheet, labels: str | dict[str, str]) -> str:
    """Negative if nothing else can mean that."""
    if isinstance(labels, str):
        return "negative"
    cells = {cell for column in labels.values() for cell in sheet.column(column, "").unique()}
    return "unknown" if 0 in map(sheet.truth, cells) else "negative"


def _notes(sheet: Sheet, read: Listing, settings: Settings) -> Iterator[str]:
    """What a person should know or decide."""
    used = listing.columns(settings).values()
    if unused := [name for name in sheet.header if name not in used]:
        yield f"columns not used: {', '.join(unused)}"
    n = len(read.missing)
    if n and settings.on_bad_image == "skip":
        yield f"{count(n, 'row')} without a file, left out, such as {next(iter(read.missing))!r}"
    if read.patients is None:
        yield "no patients: images of a patient may be in several splits, and intervals too narrow"
    columns = [settings.labels] if isinstance(settings.labels, str) else settings.labels.values()
    cells = Counter[str]()
    for column in columns:
        cells.update(sheet.column(column, "").value_counts().to_dict())
    if n := sum(n for cell, n in cells.items() if is_blank(cell)):
        yield f"{count(n, 'empty cell')} of labels read as {settings.blank}; see `blank`"
    if n := sum(n for cell, n in cells.items() if not is_blank(cell) and sheet.truth(cell) == -1):
        yield f"{count(n, 'label')} of -1 read as {settings.uncertain}; see `uncertain`"
    for split in SPLITS:
        labels = read.labels[read.splits == split]
        without = [
            name
            for name, values in zip(read.label_names, labels.T, strict=True)
            if not (values == 1).any()
        ]
        if without:
            yield f"no positive image in {split}: {', '.join(without)}"


def _sample(read: Listing) -> tuple[list[str], list[str]]:
    """Read some images, evenly spaced in the table: those that can't be used, and notes."""
    rows = np.unique(np.linspace(0, len(read.files) - 1, SAMPLE).astype(int))
    assumed: Counter[str] = Counter()
    sides: list[int] = []
    n_square, unusable, notes = 0, list[str](), list[str]()
    for row in rows:
        try:
            picture = files.read(Path(read.files[row]))
        except CxrError as error:
            unusable.append(str(error))
            continue
        assumed.update(picture.notes.assumed.keys())
        sides += picture.grey.shape
        n_square += len(set(picture.grey.shape)) == 1
    if sides:
        n_others = len(sides) // 2 - n_square
        shapes = f", {n_others} not square (see download.fit)" if n_others else ""
        notes.append(
            f"{count(len(sides) // 2, 'image')} read as a sample: {min(sides)} to {max(sides)} px "
            f"per side{shapes}"
        )
    if assumed:
        parts = ", ".join(f"{topic} ({n})" for topic, n in assumed.most_common())
        notes.append(f"assumed to read them: {parts}; `cxr predict FILE --json` explains each")
    return unusable, notes

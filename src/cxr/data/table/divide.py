"""The split of each image of a table: by a column, by lists of images, or drawn by patient."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.attributes import Texts
from cxr.data.columns import refuse, rows_of
from cxr.data.ids import Ids, pair, same_folders
from cxr.data.sheet import Sheet, read_sheet
from cxr.data.splits import SPLITS
from cxr.data.table.draw import draw
from cxr.formatting import count
from cxr.params import Table as Settings

KEY = "download.table.split"
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def given_splits(sheet: Sheet, settings: Settings, paths: Mapping[str, Path]) -> Texts:
    """The split of each row by a column or by lists of images; train without them."""
    if settings.split is None:
        return np.full(len(sheet.frame), "train", "U5")
    if isinstance(settings.split, str):
        cells = sheet.column(settings.split, KEY)
        splits = cells.str.lower().map(SPLIT_NAMES)
        refuse(
            f"{sheet.where(rows[0])}: {settings.split!r} is {cell!r}{rows_of(rows)}; expected "
            "train, val or test"
            for cell in cells[splits.isna()].unique()
            if len(rows := cells.index[cells == cell])
        )
        return np.asarray(splits, str)
    files = sheet.column(settings.image, KEY).to_numpy(str)
    splits = np.full(len(files), "" if "train" in settings.split else "train", "U5")
    by_row: dict[int, str] = {}
    problems = []
    for split in settings.split:
        listed = np.unique([row.cells[0] for row in read_sheet(paths[split]).rows])
        pairs = pair(listed, files)
        both_names = zip(listed[pairs.a].tolist(), files[pairs.b].tolist(), strict=True)
        fits = np.array([same_folders(a, b) for a, b in both_names], bool)
        rows = pairs.b[fits].tolist()
        if not rows:
            problems.append(f"{paths[split]}: none of its images is in {sheet.path}; correct it")
        if both := [row for row in rows if row in by_row]:
            problems.append(
                f"{paths[split]} and {paths[by_row[both[0]]]} both list {str(files[both[0]])!r}"
                f"{f' ({len(both):,} images)' if len(both) > 1 else ''}; remove it from one"
            )
        by_row |= dict.fromkeys(rows, split)
        splits[rows] = split
    if len(without := sheet.frame.index[splits == ""]):
        problems.append(
            f"{sheet.where(without[0])}: no list in {KEY} has {str(files[splits == ''][0])!r}"
            f"{rows_of(without)}; add it to one, or remove the row"
        )
    refuse(problems)
    return splits


def to_draw(given: Texts, settings: Settings) -> dict[str, float]:
    """The share of each split that no row has been given."""
    fractions = {"val": settings.fractions.val, "test": settings.fractions.test}
    return {split: share for split, share in fractions.items() if split not in given}


def refuse_shared_patients(sheet: Sheet, patients: Ids, splits: Texts) -> None:
    """InvalidTable if a patient has images in two splits."""
    rows = pd.DataFrame({"patient": patients, "split": splits}, index=sheet.frame.index)
    once = rows.drop_duplicates()
    shared = once[once.duplicated("patient")]
    others = once.drop_duplicates("patient").set_index("patient")["split"]
    n = shared["patient"].nunique()
    more = f" ({n:,} patients are in several)" if n > 1 else ""
    refuse(
        f"{sheet.where(line)}: patient {patient} is in {split} and in {others[patient]}"
        f"{more}; put all images of a patient into one split, or "
        f"set {KEY} to null to draw it by patient"
        for line, patient, split in shared.head(1).itertuples(name=None)
    )


def with_drawn(
    splits: npt.NDArray[np.str_],
    drawn: Mapping[str, float],
    patients: npt.NDArray[Any],
    positive: npt.NDArray[np.bool_],
    unit: str,
    seed: int,
) -> Texts:
    """The splits of images with files; some of them drawn from the training images.

    Parameters
    ----------
    splits : as given, (N,).
    drawn : the share of each split to draw.
    patients : (N,); images if there are no patients.
    positive : (N, L), which labels each image has.
    unit : what is drawn, patient or image.

    Raises
    ------
    InvalidTable
        If a split would be empty.
    """
    pool = np.flatnonzero(splits == "train")
    if drawn:
        _, numbers = np.unique(patients[pool], return_inverse=True)
        if len(pool) == 0 or numbers.max() < len(drawn):
            n = 0 if len(pool) == 0 else int(numbers.max()) + 1
            refuse([
                f"{count(n, unit)} can't be divided into train, {' and '.join(drawn)}; check "
                f"{KEY} and download.table.folders"
            ])  # fmt: skip
        shares = {"train": 1 - sum(drawn.values()), **drawn}
        splits = splits.copy()
        splits[pool] = draw(numbers, positive[pool], shares, seed)
    if empty := [split for split in SPLITS if not (splits == split).any()]:
        refuse([f"no image is in {' and '.join(empty)}; correct {KEY}"])
    return splits

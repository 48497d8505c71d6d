"""A table that adds patients, attributes and further labels to images, joined by their ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr import labels
from cxr.data.column_names import ATTRIBUTE_NAMES, ID_NAMES, PATIENT_NAMES, named
from cxr.data.columns import distinct, patients_or_images, refuse, too_long, truths
from cxr.data.ids import MOST_ID_CHARACTERS, Ids, Rows, rows_of
from cxr.data.sheet import read_sheet
from cxr.data.splits import SPLITS
from cxr.errors import CxrError
from cxr.params import Companion as Settings
from cxr.params import named_file

KEY = "download.companion"
IMAGE_IDS = ("split", "index", "image_id")  # columns of MedMNIST's CSV


@dataclass(frozen=True)
class Companion:
    """The columns of a companion table that are used, one value per row."""

    ids: Ids  # (R,)
    patients: list[str] | None
    attributes: dict[str, list[str]]
    labels: dict[str, npt.NDArray[np.int8]]
    id_column: str  # as named in messages
    image_ids: dict[str, Ids] | None  # by split, for images whose file has no ids


@dataclass(frozen=True)
class Joined:
    """What a companion table adds to the images of each split."""

    ids: dict[str, Ids]  # (N,)
    patients: dict[str, Ids] | None  # (N,); an image without a row counts as its own patient
    attributes: dict[str, npt.NDArray[np.str_]]  # (N, A), empty where unknown
    labels: dict[str, npt.NDArray[np.int8]]  # (N, K)
    images_without_row: dict[str, int]
    rows_without_image: int


def files(settings: Settings, root: Path) -> dict[str, Path]:
    """The user's own files by parameter, relative to `root`: `path` and `image_ids`."""
    names = {"path": settings.path, "image_ids": settings.image_ids}
    return {key: named_file(f"{KEY}.{key}", name, root) for key, name in names.items() if name}


def copies(settings: Settings, folder: Path) -> dict[str, Path]:
    """Where the download stage keeps the user's files, in a folder each."""
    names = {"path": settings.path, "image_ids": settings.image_ids}
    return {key: folder / key / Path(name).name for key, name in names.items() if name}


def read(settings: Settings, paths: Mapping[str, Path]) -> Companion | None:
    """The companion table at `paths` (see `files`), None if there is none.

    Raises
    ------
    CxrError
        Naming the column or line and the fix.
    """
    if "path" not in paths:
        return None
    sheet = read_sheet(paths["path"])
    named = {f"attributes.{name}": column for name, column in settings.attributes.items()}
    named |= {"patient": settings.patient} if settings.patient else {}
    for key, column in [*named.items(), *(("labels", each) for each in settings.labels)]:
        sheet.column(column, f"{KEY}.{key}")
    sheet = distinct(sheet, settings.id, f"{KEY}.id", [*named.values(), *settings.labels])
    refuse(
        chain.from_iterable(too_long(sheet, each, f"{KEY}.{key}") for key, each in named.items())
    )
    cells = {key: sheet.column(column, key).tolist() for key, column in named.items()}
    return Companion(
        ids=sheet.column(settings.id, KEY).to_numpy(str),
        patients=cells.get("patient"),
        attributes={name: cells[f"attributes.{name}"] for name in settings.attributes},
        labels={column: truths(sheet, column, f"{KEY}.labels") for column in settings.labels},
        id_column=f"{settings.id!r} of {sheet.path}",
        image_ids=_image_ids(paths["image_ids"]) if "image_ids" in paths else None,
    )


def guess(path: Path) -> Settings:
    """Settings for a table whose columns of ids, patients and attributes have usual names.

    Raises
    ------
    CxrError
        If no column is named like ids, or none like attributes.
    """
    header = read_sheet(path).header
    image = named(header, ID_NAMES)
    attributes = {
        key: column for key, names in ATTRIBUTE_NAMES.items() if (column := named(header, names))
    }
    if image is None or not attributes:
        missing = "image ids" if image is None else f"{', '.join(ATTRIBUTE_NAMES)}"
        raise CxrError(
            f"{path}: no column is named like {missing}; its columns are "
            f"{', '.join(map(repr, header))[:300]}; rename them"
        )
    return Settings(
        path=str(path), image_ids=None, id=image, patient=named(header, PATIENT_NAMES),
        attributes=attributes, labels=(),
    )  # fmt: skip


def join(companion: Companion, ids: Mapping[str, Ids | None], n: Mapping[str, int]) -> Joined:
    """Join a companion's rows to images.

    Parameters
    ----------
    ids : of the images by split, None if their file has no ids.
    n : number of images by split.

    Raises
    ------
    CxrError
        If the images have no ids, or none of them has a row.
    """
    own = _own_ids(companion, ids, n)
    everything = np.concatenate([own[split].astype(str) for split in n])
    row_of = rows_of(companion.ids, everything)
    n_used = len(np.unique(row_of[row_of >= 0]))
    if not n_used:
        raise CxrError(
            f"{KEY}: {companion.id_column} holds ids such as {str(companion.ids[0])!r}, and the "
            f"images have ids such as {str(everything[0])!r}: none match; set {KEY}.id to the "
            "column with the ids of images"
        )
    ends = np.cumsum([len(own[split]) for split in n])
    rows = dict(zip(n, np.split(row_of, ends[:-1]), strict=True))
    return Joined(
        ids=own,
        patients=None
        if companion.patients is None
        else {s: _patients(companion.patients, rows[s], own[s]) for s in n},
        attributes={s: _columns(companion.attributes, rows[s], "", str) for s in n},
        labels={s: _columns(companion.labels, rows[s], labels.UNKNOWN, np.int8) for s in n},
        images_without_row={s: int((rows[s] < 0).sum()) for s in n},
        rows_without_image=len(companion.ids) - n_used,
    )


def _own_ids(
    companion: Companion, ids: Mapping[str, Ids | None], n: Mapping[str, int]
) -> dict[str, Ids]:
    own = {split: each for split, each in ids.items() if each is not None}
    if companion.image_ids is not None:
        if own:
            raise CxrError(f"{KEY}.image_ids: the images have ids of their own; set it to null")
        for split, each in companion.image_ids.items():
            if len(each) != n[split]:
                raise CxrError(
                    f"{KEY}.image_ids: the file has {len(each):,} rows of {split}, and the data "
                    f"{n[split]:,} images; use the file of this data set"
                )
        return companion.image_ids
    if missing := [split for split in n if split not in own]:
        raise CxrError(
            f"{KEY}: the images of {', '.join(missing)} have no ids; save them as "
            f"`{{split}}_ids`, or for ChestMNIST set {KEY}.image_ids to MedMNIST's CSV with the "
            f"columns {', '.join(IMAGE_IDS)}"
        )
    return own


def _image_ids(path: Path) -> dict[str, Ids]:
    """The image ids in MedMNIST's CSV, by split in row order."""
    sheet = read_sheet(path)
    cells = [sheet.column(column, f"{KEY}.image_ids") for column in IMAGE_IDS]
    of_split: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    for line, split, index, name in zip(sheet.frame.index, *cells, strict=True):
        if split not in of_split:
            raise CxrError(
                f"{sheet.where(line)}: the split is {split!r}; expected {', '.join(SPLITS)}"
            )
        if index in of_split[split] or not 1 <= len(name) <= MOST_ID_CHARACTERS:
            problem = f"the index {index} of {split} again"
            if index not in of_split[split]:
                problem = f"an image_id of {len(name):,} characters"
            raise CxrError(f"{sheet.where(line)} has {problem}; correct the file")
        of_split[split][index] = name
    for split, each in of_split.items():
        if missing := [i for i in range(len(each)) if str(i) not in each]:
            raise CxrError(
                f"{path}: {split} has no index {missing[0]}; expected each from 0 to "
                f"{len(each) - 1}"
            )
    return {
        s: np.array([of_split[s][str(i)] for i in range(len(of_split[s]))], str) for s in SPLITS
    }


def _columns(
    columns: Mapping[str, Any], rows: Rows, unknown: Any, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """The columns' values for each image, (N, C); `unknown` for images without a row."""
    table = np.array([[*column, unknown] for column in columns.values()], dtype)
    return table.T[rows] if len(table) else np.empty((len(rows), 0), dtype)  # row -1 is the last


def _patients(patients: list[str], rows: Rows, ids: Ids) -> Ids:
    known = np.array([*patients, ""])[rows]  # row -1 is the last
    return patients_or_images(known.tolist(), ids.astype(str).tolist())

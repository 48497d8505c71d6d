"""Read and check a table of the user's own images: one row per image."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.attributes import Texts
from cxr.data.columns import (
    InvalidTable,
    distinct,
    patients_or_images,
    refuse,
    too_long,
)
from cxr.data.ids import FILE_TYPE, Ids
from cxr.data.sheet import Sheet, read_sheet
from cxr.data.splits import SPLITS
from cxr.data.table.divide import given_splits, refuse_shared_patients, to_draw, with_drawn
from cxr.data.table.files import image_folders, locate
from cxr.data.table.labels import read_labels
from cxr.errors import CxrError
from cxr.params import Table as Settings
from cxr.params import named_file

KEY = "download.table"


@dataclass(frozen=True)
class Listing:
    """The images of a table that have a file, in the order of their rows."""

    ids: list[str]  # (N,), file names as written, without the file type
    files: list[str]  # their paths
    label_names: tuple[str, ...]
    labels: npt.NDArray[np.int8]  # (N, L)
    patients: Ids | None  # (N,)
    splits: Texts  # (N,)
    attributes: dict[str, Texts]  # by name, (N,)
    missing: dict[str, int]  # file names of rows without a file, and their lines
    folders: dict[str, str]  # absolute path of each folder, and as params.yaml has it

    def file_as_written(self, row: int) -> str:
        """The path of an image's file, starting with a folder as in params.yaml."""
        file = self.files[row]
        folder = next(each for each in self.folders if file.startswith(f"{each}/"))
        return self.folders[folder] + file.removeprefix(folder)

    @property
    def n(self) -> dict[str, int]:
        """The number of images in each split."""
        return {split: int((self.splits == split).sum()) for split in SPLITS}


def files(settings: Settings, path: str, root: Path) -> dict[str, Path]:
    """The table and the lists of splits, by parameter; relative to `root`."""
    lists = settings.split if isinstance(settings.split, dict) else {}
    return {"path": named_file("download.path", path, root)} | {
        split: named_file(f"{KEY}.split.{split}", name, root) for split, name in lists.items()
    }


def read(settings: Settings, paths: Mapping[str, Path], root: Path, seed: int) -> Listing:
    """Check a table whole, before any image is read.

    Parameters
    ----------
    paths : of the table and the lists, see `files`.
    root : folder that relative `folders` are relative to.
    seed : of the splits that are drawn.

    Raises
    ------
    InvalidTable
        With the first problems.
    """
    sheet = _distinct(read_sheet(paths["path"]), settings)
    files = sheet.column(settings.image, KEY)
    ids = _ids(sheet, files)
    names, labels = read_labels(sheet, settings)
    patients = _patients(sheet, settings, ids)
    given = given_splits(sheet, settings, paths)
    if patients is not None:
        refuse_shared_patients(sheet, patients, given)
    folders = image_folders(settings.folders, root)
    found = locate(files.tolist(), folders)
    has_file = np.array([each is not None for each in found])
    rows = np.flatnonzero(has_file)
    missing = {str(name): int(line) for line, name in files[~has_file].items()}
    if missing and (settings.on_bad_image == "stop" or not len(rows)):
        raise InvalidTable([missing_files(sheet, missing, settings)])
    attributes = {
        name: sheet.column(column, KEY).to_numpy(str)[rows]
        for name, column in settings.attributes.items()
    }
    patients = None if patients is None else patients[rows]
    return Listing(
        ids=[ids[row] for row in rows],
        files=[each for each in found if each is not None],
        label_names=names,
        labels=labels[rows],
        patients=patients,
        splits=with_drawn(
            given[rows],
            to_draw(given, settings),
            np.array(ids)[rows] if patients is None else patients,
            labels[rows] == 1,
            "image" if patients is None else "patient",
            seed,
        ),
        attributes=attributes,
        missing=missing,
        folders=dict(zip(map(str, folders), settings.folders, strict=True)),
    )


def missing_files(sheet: Sheet, missing: Mapping[str, int], settings: Settings) -> str:
    """The problem of rows that have no file."""
    name, line = next(iter(missing.items()))
    more = f" ({len(missing):,} of {len(sheet.frame):,} images)" if len(missing) > 1 else ""
    fix = f"add it, or set {KEY}.on_bad_image to skip"
    if len(missing) == len(sheet.frame):
        fix = f"correct {KEY}.folders or {KEY}.image"
    folders = ", ".join(settings.folders)
    return f"{sheet.where(line)}: no file for {name!r} in {folders}{more}; {fix}"


def columns(settings: Settings) -> dict[str, str]:
    """The columns that are used, by parameter below `download.table`."""
    labels = settings.labels if isinstance(settings.labels, dict) else {"": settings.labels}
    used = {"image": settings.image}
    used |= {f"labels.{name}".rstrip("."): column for name, column in labels.items()}
    used |= {"patient": settings.patient} if isinstance(settings.patient, str) else {}
    used |= {"split": settings.split} if isinstance(settings.split, str) else {}
    return used | {f"attributes.{name}": each for name, each in settings.attributes.items()}


def _distinct(sheet: Sheet, settings: Settings) -> Sheet:
    """One row per image; InvalidTable names all columns that are missing."""
    used = columns(settings)
    problems = []
    for key, column in used.items():
        try:
            sheet.column(column, f"{KEY}.{key}")
        except CxrError as error:
            problems.append(str(error))
    refuse(problems)
    sheet = distinct(sheet, settings.image, f"{KEY}.image", used.values())
    texts = [key for key in used if key == "patient" or key.startswith("attributes.")]
    refuse(each for key in texts for each in too_long(sheet, used[key], f"{KEY}.{key}"))
    return sheet


def _ids(sheet: Sheet, files: "pd.Series[str]") -> list[str]:
    """File names without their type; InvalidTable if two rows differ only in that."""
    ids = files.str.replace(FILE_TYPE, "", regex=True)
    refuse(
        f"{sheet.where(line)}: {files[line]!r} differs from another row only in the file type; "
        "keep one file per image"
        for line in ids.index[ids.duplicated()]
    )
    return [*map(str, ids)]


def _patients(sheet: Sheet, settings: Settings, ids: list[str]) -> Ids | None:
    if settings.patient is None:
        return None
    if isinstance(settings.patient, str):
        return patients_or_images(sheet.column(settings.patient, KEY).tolist(), ids)
    pattern = re.compile(settings.patient["regex"])
    files = sheet.column(settings.image, KEY)
    matches = [pattern.search(each) for each in files]
    found = [match and match[pattern.groups] for match in matches]
    refuse(
        f"{sheet.where(line)}: {name!r} has no match for the patient, {pattern.pattern!r}; correct "
        f"{KEY}.patient"
        for line, name, patient in zip(files.index, files, found, strict=True)
        if not patient
    )
    return patients_or_images([patient or "" for patient in found], ids)

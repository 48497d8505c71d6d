"""Experts' bounding boxes around findings: NIH's and RSNA's tables, in pixels of 1024 x 1024."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr.data.ids import stem
from cxr.data.sheet import Sheet, is_blank, read_sheet
from cxr.data.splits import Split
from cxr.errors import CxrError
from cxr.labels import canonical
from cxr.params import Boxes as Settings
from cxr.params import named_file

KEY = "gradcam.boxes"
SIDE = 1024.0  # pixels of the images that the boxes were drawn on
CORNERS = ("x", "y", "width", "height")

# Accepted column names. NIH's BBox_List_2017.csv splits its header within `Bbox [x,y,w,h]`.
COLUMNS = {
    "id": ("image_id", "image index", "id", "image"),
    "label": ("label", "finding label", "class", "rsna_class"),
    "x": ("x", "bbox [x"),
    "y": ("y",),
    "width": ("width", "w"),
    "height": ("height", "h]", "h"),
}


@dataclass(frozen=True)
class Box:
    """One box: x and y of its upper left corner, width and height, in pixels of SIDE."""

    image: str  # id, without folder and file suffix
    labels: tuple[str, ...]  # it is around any of these
    corners: npt.NDArray[np.float64]  # (4,)
    if_positive: bool = False  # counts only for those of the labels that are positive in the data


def files(settings: Mapping[str, Settings], root: Path) -> dict[str, Path]:
    """The files by expert, at paths relative to `root`; CxrError if one does not exist."""
    return {
        expert: named_file(f"{KEY}.{expert}.path", each.path, root)
        for expert, each in settings.items()
    }


def read(
    settings: Mapping[str, Settings], paths: Mapping[str, Path], data: Mapping[str, Split]
) -> dict[str, list[Box]]:
    """All boxes by expert, also those of images that are not in the data.

    Parameters
    ----------
    paths : of the files, by expert.
    data : all splits. Findings of ChestMNIST may be absent from their labels; others may not.

    Raises
    ------
    CxrError
        Naming the parameter, the line and the fix. Also if an expert has no box on any image.
    """
    if not settings:
        return {}
    rows = [rows_by_name(split) for split in data.values()]
    names = next(iter(data.values())).names
    found = {
        expert: _read(f"{KEY}.{expert}", each, paths[expert], names)
        for expert, each in settings.items()
    }
    for expert, boxes in found.items():
        if not any(box.image in of_split for box in boxes for of_split in rows):
            raise CxrError(
                f"{KEY}.{expert}: {paths[expert]} has boxes on images such as {boxes[0].image!r}, "
                f"and the data has images such as {next(iter(rows[0]))!r}: none match; use boxes "
                f"on these images, or remove {KEY}.{expert}"
            )
    return found


def rows_by_name(split: Split) -> dict[str, int]:
    """The rows of a split's images by their ids, without folders and file suffixes."""
    if split.ids is None:
        raise CxrError(f"{KEY}: the data has no image ids to match boxes with; set it to {{}}")
    rows: dict[str, int] = {}
    for row, name in enumerate(stem(str(each)) for each in split.ids):
        if rows.setdefault(name, row) != row:
            raise CxrError(
                f"{KEY}: several image ids end in {name}, so its boxes cannot be matched with one "
                "image; make the file names unique"
            )
    return rows


def _read(key: str, settings: Settings, path: Path, names: tuple[str, ...]) -> list[Box]:
    meanings = {
        written: tuple(_label(label, names, f"{key}.labels.{written}") for label in labels)
        for written, labels in settings.labels.items()
    }
    try:
        sheet = read_sheet(path)
    except CxrError as error:
        raise CxrError(f"{key}: {error}") from None
    columns = _columns(sheet, key)
    boxes = []
    for line, row in sheet.body:
        cells = {name: row[column] for name, column in columns.items()}
        if all(is_blank(cells[name]) for name in CORNERS):  # RSNA lists images without a finding
            continue
        where = f"{key}: {sheet.where(line)}"
        if not cells["id"]:
            raise CxrError(f"{where} has no image id; add it")
        written = cells["label"]
        if written in meanings:
            labels = meanings[written]
        else:
            labels = (_label(written, names, where, f", or add it to {key}.labels"),)
        corners = _corners(sheet, cells, where)
        boxes.append(Box(stem(cells["id"]), labels, corners, if_positive=written in meanings))
    if not boxes:
        raise CxrError(f"{key}: {path} has no boxes; expected a row with coordinates per box")
    return boxes


def _columns(sheet: Sheet, key: str) -> dict[str, int]:
    header = [name.lower() for name in sheet.header]
    columns = {
        part: next((header.index(name) for name in names if name in header), -1)
        for part, names in COLUMNS.items()
    }
    if missing := [name for name, column in columns.items() if column < 0]:
        raise CxrError(
            f"{key}: {sheet.path} has no column for {', '.join(missing)}; "
            "expected image_id, label, x, y, width and height"
        )
    return columns


def _label(written: str, names: tuple[str, ...], where: str, or_else: str = "") -> str:
    label = written if written in names else canonical(written)
    if label is None:
        raise CxrError(
            f"{where}: {written!r} is not a label of the data; use one of {', '.join(names)}"
            f"{or_else}"
        )
    return label


def _corners(sheet: Sheet, cells: Mapping[str, str], where: str) -> npt.NDArray[np.float64]:
    numbers = [sheet.number(cells[name]) for name in CORNERS]
    if None in numbers:
        shown = ", ".join(repr(cells[name]) for name in CORNERS)
        raise CxrError(f"{where}: x, y, width and height are {shown}; expected four numbers")
    corners = np.array(numbers, np.float64)
    if not np.isfinite(corners).all() or (corners[2:] <= 0).any():
        raise CxrError(
            f"{where} is not a box: {corners.tolist()}; expected finite numbers, width and "
            "height > 0"
        )
    if (corners[:2] >= SIDE).any() or (corners[:2] + corners[2:] <= 0).any():
        raise CxrError(
            f"{where}: {corners.tolist()} is outside of the image; expected pixels of an image of "
            f"{SIDE:.0f} x {SIDE:.0f}"
        )
    return corners

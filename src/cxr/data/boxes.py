"""Radiologists' bounding boxes around findings: NIH's CSV format, in pixels of 1024 x 1024."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr.data.ids import stem
from cxr.documents import read_within
from cxr.errors import CxrError
from cxr.labels import canonical
from cxr.params import named_file

MOST_BYTES = 2**24  # a hundred times NIH's own
SIDE = 1024.0  # pixels of the images that the boxes were drawn on

# Accepted column names. NIH's BBox_List_2017.csv splits its header within `Bbox [x,y,w,h]`.
COLUMNS = {
    "id": ("image_id", "image index", "id", "image"),
    "label": ("label", "finding label"),
    "x": ("x", "bbox [x"),
    "y": ("y",),
    "width": ("width", "w"),
    "height": ("height", "h]", "h"),
}


@dataclass(frozen=True)
class Box:
    """One box: x and y of its upper left corner, width and height, in pixels of SIDE."""

    image: str  # id, without folder and file suffix
    label: str
    corners: npt.NDArray[np.float64]  # (4,)


def find(path: str, root: Path) -> Path:
    """The path that `gradcam.boxes` names, relative to `root`; CxrError if it is not a file."""
    return named_file("gradcam.boxes", path, root)


def read(path: Path, labels: tuple[str, ...]) -> list[Box]:
    """The boxes in a file; CxrError names the invalid line.

    Parameters
    ----------
    labels : of the data. Findings of ChestMNIST may be absent from them; other labels may not.
    """
    try:
        text = read_within(path, MOST_BYTES).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
    except (UnicodeDecodeError, csv.Error):
        raise CxrError(
            f"gradcam.boxes: {path} is not a CSV file in UTF-8; save it as UTF-8 CSV"
        ) from None
    except (OSError, ValueError) as error:
        raise CxrError(f"gradcam.boxes: {path} can't be read: {error}") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    indices = {
        key: next((header.index(name) for name in names if name in header), -1)
        for key, names in COLUMNS.items()
    }
    if missing := [key for key, index in indices.items() if index < 0]:
        raise CxrError(
            f"gradcam.boxes: {path} has no column for {', '.join(missing)}; "
            "expected image_id, label, x, y, width and height"
        )
    return [_box(path, line, row, indices, labels) for line, row in enumerate(rows[1:], start=2)]


def _box(
    path: Path, line: int, row: list[str], indices: dict[str, int], labels: tuple[str, ...]
) -> Box:
    if len(row) <= max(indices.values()):
        raise CxrError(
            f"gradcam.boxes: line {line} of {path} has {len(row)} columns; expected at least "
            f"{max(indices.values()) + 1}"
        )
    written = row[indices["label"]].strip()
    label = written if written in labels else canonical(written)
    if label is None:
        raise CxrError(
            f"gradcam.boxes: line {line} of {path}: {written!r} is not a label of the data: "
            f"{', '.join(labels)}"
        )
    try:
        corners = np.array([float(row[indices[key]]) for key in ("x", "y", "width", "height")])
    except ValueError:
        raise CxrError(
            f"gradcam.boxes: line {line} of {path}: x, y, width and height must be numbers"
        ) from None
    if not np.isfinite(corners).all() or (corners[2:] <= 0).any():
        raise CxrError(
            f"gradcam.boxes: line {line} of {path} is not a box: {corners.tolist()}; expected "
            "finite numbers, width and height > 0"
        )
    return Box(stem(row[indices["id"]].strip()), label, corners)

"""Find the image files that a command's arguments name; in folders, by their content."""

import glob
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cxr.data.images import bitmap, dicom
from cxr.errors import CxrError

SUFFIXES = (*bitmap.SUFFIXES, *dicom.SUFFIXES)
HEAD_BYTES = 256  # enough of a file to recognise its format
HIDDEN, INDEX, OTHER = "hidden", "DICOMDIR", "other"  # kinds of skipped files
UNKNOWN = "unknown"  # an image suffix, but unrecognised content: rejected when it is read


@dataclass
class Found:
    """Image files without repeats, and counts of found and skipped files in folders by kind."""

    paths: list[Path] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """`found 3 DICOM and 9 PNG, skipped 2 hidden`."""
        parts = [f"found {_listed(self.taken)}"]
        if self.skipped:
            parts.append(f"skipped {_listed(self.skipped)}")
        return ", ".join(parts)


def find(arguments: list[str]) -> Found:
    """The files that paths, folders and patterns name; CxrError if one matches nothing.

    Folders are searched recursively. Hidden files and folders are skipped: macOS writes a file
    ._NAME next to each NAME.
    """
    found = Found()
    for argument in arguments:
        path = Path(argument)
        if _is_folder(path):
            before = len(found.paths)
            _search(path, found)
            if len(found.paths) == before:
                raise CxrError(
                    f"{path} contains no images; supported are {', '.join(SUFFIXES)} and DICOM "
                    "files without a suffix"
                )
        elif glob.has_magic(argument) and not path.exists():
            matched = sorted(map(Path, glob.glob(argument)))  # noqa: PTH207 - may be absolute
            if not matched:
                raise CxrError(f"no file matches {argument}; check the pattern")
            found.paths += matched
        else:
            found.paths.append(path)
    found.paths = list(dict.fromkeys(found.paths))
    return found


def _search(folder: Path, found: Found) -> None:
    for path in map(Path, files_below(folder)):
        if path.name.startswith("."):
            found.skipped[HIDDEN] += 1
        elif path.name.upper() == INDEX:  # the index of the DICOM files on a disc
            found.skipped[INDEX] += 1
        elif kind := _kind(path):
            found.taken[kind] += 1
            found.paths.append(path)
        else:
            found.skipped[OTHER] += 1


def files_below(folder: Path) -> Iterator[str]:
    """Paths of the files in a folder and its subfolders, except hidden folders, in order."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (f"{parent}/{name}" for name in sorted(names))


def _kind(path: Path) -> str | None:
    """An image file's format by its content; None if its suffix is not an image's either."""
    head = b""
    if path.is_file():  # opening a pipe would block
        with suppress(OSError), open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    if dicom.has_dicom_header(head):
        return "DICOM"
    return bitmap.kind(head) or (UNKNOWN if path.suffix.lower() in SUFFIXES else None)


def _listed(counts: Counter[str]) -> str:
    parts = [f"{n:,} {kind}" for kind, n in sorted(counts.items())]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False

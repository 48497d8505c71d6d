"""Image files by name, by folder and by pattern, each read as a grey image.

Every fault of a file is a CxrError of one line that names it.
"""

import glob
import os
from pathlib import Path

from cxr.documents import LFS_POINTER
from cxr.errors import CxrError
from cxr.images import bitmap, dicom
from cxr.images.picture import LEAST_SIDE, Picture, n_grey_values

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", *dicom.SUFFIXES
)  # fmt: skip
MOST_FILE_BYTES = 2**28  # so many pixels of 16 bits, twice


def find(arguments: list[str]) -> list[Path]:
    """The files that files, folders and patterns name; CxrError where one names nothing.

    Hidden files of a folder are skipped: macOS puts one named ._NAME beside each NAME.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if _is_folder(path):
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            inside = [each for each in inside if not each.name.startswith(".")]
            if not inside:
                raise CxrError(f"{path} has no image; {', '.join(SUFFIXES)} are read")
            found += inside
        elif glob.has_magic(argument) and not path.exists():
            matched = sorted(map(Path, glob.glob(argument)))  # noqa: PTH207 - it may be absolute
            if not matched:
                raise CxrError(f"no file matches {argument}; check the pattern")
            found += matched
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def read(path: Path) -> Picture:
    """One file as a grey image."""
    if not os.path.isfile(path):  # noqa: PTH113 - Path's own raises where a name is too long
        raise CxrError(f"{path} does not exist or is not a file; check the path")
    try:
        if os.path.getsize(path) > MOST_FILE_BYTES:  # noqa: PTH202 - as above
            raise CxrError(f"{path} is too large; at most {MOST_FILE_BYTES:,} bytes are read")
        content = path.read_bytes()
    except OSError as error:
        raise CxrError(f"{path} can't be read: {error.strerror}") from None
    return decode(content, path)


def decode(content: bytes, path: Path) -> Picture:
    """A file's content as a grey image; `path` is what messages call it. One thread at a time."""
    if content.startswith(LFS_POINTER):
        raise CxrError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull`")
    is_dicom = dicom.is_dicom(content, path)
    picture = dicom.decode(content, path) if is_dicom else bitmap.decode(content, path)
    height, width = picture.grey.shape
    if min(height, width) < LEAST_SIDE:
        raise CxrError(f"{path} has {width} x {height} pixels; at least {LEAST_SIDE} are needed")
    n_values = n_grey_values(picture.grey)
    if n_values <= 2:
        picture.notes.warn("depth", f"has {n_values} grey values, which no radiograph has")
    return picture

"""Image files, each read as a grey image.

Every fault of a file is a CxrError of one line that names it.
"""

import os
from pathlib import Path

from cxr.data.images import bitmap, dicom
from cxr.data.images.picture import LEAST_SIDE, Picture, n_grey_values
from cxr.documents import check_content_is_no_lfs_pointer
from cxr.errors import CxrError

MOST_FILE_BYTES = 2**28  # MOST_PIXELS of 16 bits, twice


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
    check_content_is_no_lfs_pointer(path, content)
    is_dicom = dicom.begins(content) or path.suffix.lower() in dicom.SUFFIXES
    picture = dicom.decode(content, path) if is_dicom else bitmap.decode(content, path)
    height, width = picture.grey.shape
    if min(height, width) < LEAST_SIDE:
        raise CxrError(f"{path} has {width} x {height} pixels; at least {LEAST_SIDE} are needed")
    n_values = n_grey_values(picture.grey)
    if n_values <= 2:
        picture.notes.warn("depth", f"has {n_values} grey values, which no radiograph has")
    return picture

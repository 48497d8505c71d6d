"""Read an image file of any supported format as a grey image.

Any defect of a file raises a CxrError of one line that names the file.
"""

import os
from pathlib import Path

from PIL import Image

from cxr.data.images import bitmap, dicom
from cxr.data.images.picture import LEAST_SIDE, Grey, Picture
from cxr.documents import check_content_is_no_lfs_pointer
from cxr.errors import CxrError
from cxr.formatting import count

MOST_FLAT = 2  # grey values of an image that deserves a warning
MOST_FILE_BYTES = 2**28  # twice MOST_PIXELS of 16 bits


def read(path: Path) -> Picture:
    """Read one file as a grey image."""
    return decode(content(path), path)


def content(path: Path) -> bytes:
    """A file's bytes; CxrError if it can't be read or is too large."""
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
        raise CxrError(f"{path} does not exist or is not a file; check the path")
    try:
        if os.path.getsize(path) > MOST_FILE_BYTES:  # noqa: PTH202 - as above
            raise CxrError(f"{path} is too large; the limit is {MOST_FILE_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise CxrError(f"{path} can't be read: {error.strerror}") from None


def decode(content: bytes, path: Path) -> Picture:
    """Decode a file's content as a grey image; `path` appears in messages. Not thread-safe."""
    check_content_is_no_lfs_pointer(path, content)
    is_dicom = dicom.has_dicom_header(content) or path.suffix.lower() in dicom.SUFFIXES
    picture = dicom.decode(content, path) if is_dicom else bitmap.decode(content, path)
    height, width = picture.grey.shape
    if min(height, width) < LEAST_SIDE:
        raise CxrError(
            f"{path} has {width} x {height} pixels; the minimum is {LEAST_SIDE} per side"
        )
    # Some pixels nearly always show that there are more.
    if _few_values(picture.grey[::8, ::8]) and (n := _few_values(picture.grey)):
        picture.notes.warn(
            "depth", f"has only {count(n, 'grey value')}; radiographs have many more"
        )
    return picture


def _few_values(grey: Grey) -> int | None:
    """The number of different grey values, None if there are more than MOST_FLAT."""
    colours = Image.fromarray(grey).getcolors(MOST_FLAT)
    return None if colours is None else len(colours)

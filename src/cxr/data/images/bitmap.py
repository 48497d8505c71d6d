"""Read PNG, JPEG, TIFF, BMP and WebP as grey images."""

import struct
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from cxr.data.images.picture import Doubles, Grey, Notes, Picture, check_size, own_range, to_grey
from cxr.errors import CxrError

Ints = npt.NDArray[np.int64]

FORMATS = (
    "PNG",
    "JPEG",
    "TIFF",
    "BMP",
    "WEBP",
)  # no others: some of Pillow's decoders run programs
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MAGIC_NUMBERS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"RIFF": "WEBP",
}
COLOURFUL = 6  # mean spread of red, green and blue above which an image counts as coloured
PNG_START = 8  # bytes before the first chunk
WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation
SIGNED = 2  # TIFF's SampleFormat
# Formats that can store unrelated images; in an animated PNG or a phone's JPEG, the extra images
# are frames or variants of the first.
MULTI_IMAGE_FORMATS = ("TIFF", "WEBP")


def kind(head: bytes) -> str | None:
    """The format of a file by its first bytes; None if it is not supported."""
    name = next((name for magic, name in MAGIC_NUMBERS.items() if head.startswith(magic)), None)
    return None if name == "WEBP" and head[8:12] != b"WEBP" else name


def decode(content: bytes, path: Path) -> Picture:
    """Decode a bitmap as a grey image; CxrError names the file and the problem."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # including decompression bombs, which are checked below
        try:
            image = Image.open(BytesIO(content), formats=FORMATS)
        except Exception:  # Pillow raises many types on damaged files
            raise CxrError(
                f"{path} is not a supported image or is far too large; save it as PNG, JPEG, TIFF, "
                "BMP, WebP or DICOM"
            ) from None
        with image:
            check_size(path, *image.size)
            try:
                image.load()
                return _picture(image, content, path)
            except CxrError:
                raise
            except Exception:  # as above
                raise CxrError(
                    f"{path} is damaged or truncated; get a new copy of the file"
                ) from None


def _picture(image: Image.Image, content: bytes, path: Path) -> Picture:
    _check_layout(image, content, path)
    notes = Notes()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":
        return Picture(path, _of_numbers(image, content, notes), notes)
    return Picture(path, _of_bytes(image, notes), notes)


def _check_layout(image: Image.Image, content: bytes, path: Path) -> None:
    """CxrError if a file contains several images or values that Pillow would change."""
    if image.format in MULTI_IMAGE_FORMATS and _has_second(content):
        raise CxrError(f"{path} contains several images; save each as a separate file")
    bits = _tiff_tag(image, BITSPERSAMPLE)
    is_deep = isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8
    if image.format == "PNG":
        is_deep = content[24] == 16 and not image.mode.startswith("I")  # the header's bit depth
    if is_deep:
        raise CxrError(
            f"{path} has 16 bits per channel, but only 8 can be read; save it as 16-bit grey "
            "without transparency"
        )
    if bits == (8,) and _tiff_tag(image, SAMPLEFORMAT) == (SIGNED,):
        raise CxrError(f"{path} has signed 8-bit values; save it with unsigned values")


def _has_second(content: bytes) -> bool:
    """Whether a second image follows; counting with `n_frames` is slow for many images."""
    with Image.open(BytesIO(content), formats=MULTI_IMAGE_FORMATS) as image:
        try:
            image.seek(1)
        except EOFError:
            return False
        return True


def _of_numbers(image: Image.Image, content: bytes, notes: Notes) -> Grey:
    """An image of more than 8 bits; few such files state which value is white."""
    values = np.asarray(image, np.float64)
    if _tiff_tag(image, BITSPERSAMPLE) == (32,) and _tiff_tag(image, SAMPLEFORMAT) != (SIGNED,):
        values = np.where(values < 0, values + 2**32, values)  # Pillow reads them as signed
    transparent = values == image.info.get("transparency")
    if transparent.any():
        _note_transparency(float(transparent.mean()), notes)
    white = _stated_white(values, image, content)
    if white is None:
        low, high = own_range(values, transparent)
        notes.warn(
            "depth",
            f"does not state which value is white; its own range, {low:g} to {high:g}, was scaled "
            "to 0 to 255",
        )
    else:
        low, high = 0, white
        notes.assume("depth", f"white is {white}, as stated in the file")
    grey = to_grey(values, low, high)
    if _tiff_tag(image, PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        notes.assume("inverted", "TIFF WhiteIsZero")  # Pillow inverts 8-bit images only
        grey = np.asarray(255 - grey, np.uint8)
    grey[transparent] = 0
    return grey


def _of_bytes(image: Image.Image, notes: Notes) -> Grey:
    if image.mode == "L" and not image.has_transparency_data:
        return np.asarray(image)
    if image.mode not in ("1", "L", "LA"):
        colours = np.asarray(image.convert("RGB"), np.int16)
        if (colours.max(axis=2) - colours.min(axis=2)).mean() > COLOURFUL:
            notes.warn("colour", "is in colour; chest X-rays are grey")
    if not image.has_transparency_data:
        return np.asarray(image.convert("L"))
    rgba = image.convert("RGBA")
    alpha = np.asarray(rgba.getchannel("A"), np.float64) / 255
    if (alpha < 1).any():
        _note_transparency(float((alpha < 1).mean()), notes)
    return np.asarray(np.rint(np.asarray(rgba.convert("RGB").convert("L")) * alpha), np.uint8)


def _note_transparency(share: float, notes: Notes) -> None:
    notes.warn("alpha", f"has transparent pixels ({100 * share:.1f}%), which were drawn on black")


def _stated_white(values: Doubles, image: Image.Image, content: bytes) -> int | None:
    """The value of white by TIFF's BitsPerSample or PNG's sBIT chunk; None if not stated.

    PNG requires values of fewer bits to be scaled up to 16, but files from detectors often store
    them unscaled. Values that fit neither contradict the chunk, which is then ignored.
    """
    if image.format != "PNG":
        bits = _tiff_tag(image, BITSPERSAMPLE)
        return 2 ** bits[0] - 1 if isinstance(bits, tuple) and 8 < bits[0] < 16 else None
    # Pillow does not keep the chunk.
    stated = next((data for kind, data in _png_chunks(content) if kind == b"sBIT"), b"")
    if not stated or not 0 < stated[0] <= 16:
        return None
    levels = np.flatnonzero(np.bincount(values.astype(np.int64).ravel(), minlength=1))
    if levels[-1] < 2 ** stated[0]:
        return int(2 ** stated[0] - 1)
    return 65535 if _are_scaled(levels, stated[0]) else None


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of each chunk before the pixels."""
    position, kind = PNG_START, b""
    while kind != b"IDAT" and position + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        yield kind, content[position + 8 : position + 8 + length]
        position += length + 12  # including the checksum


def _are_scaled(levels: Ints, bits: int) -> bool:
    """Whether levels of `bits` bits were scaled up to 16 bits.

    If so, the lower bits are zeros, repeat the upper ones, or result from a multiplication (PNG,
    "Sample depth scaling").
    """
    spare = 16 - bits
    upper, lower = levels >> spare, levels & (2**spare - 1)
    multiplied = np.rint(upper * 65535 / (2**bits - 1)).astype(np.int64)
    repeated = upper >> max(0, bits - spare)
    return bool(((lower == 0) | (lower == repeated) | (levels == multiplied)).all())


def _tiff_tag(image: Image.Image, tag: int) -> object:
    return image.tag_v2.get(tag) if isinstance(image, TiffImageFile) else None

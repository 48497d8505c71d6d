"""PNG, JPEG, TIFF, BMP and WebP as grey images."""

import struct
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from cxr.errors import CxrError
from cxr.images.picture import Grey, Notes, Picture, check_size, own_range, to_grey

Ints = npt.NDArray[np.int64]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # closed: other formats of Pillow run programs
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"RIFF": "WEBP",
}
COLOURFUL = 6  # mean spread of red, green and blue from which on an image counts as coloured
PNG_START = 8  # bytes before the first chunk
WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation


def kind(head: bytes) -> str | None:
    """The format of a file by its first bytes; None of one that is not read."""
    found = next((name for begin, name in BEGINNINGS.items() if head.startswith(begin)), None)
    return None if found == "WEBP" and head[8:12] != b"WEBP" else found


def decode(content: bytes, path: Path) -> Picture:
    """A bitmap as a grey image; CxrError names the file and what is wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, too, which are looked for below
            image = Image.open(BytesIO(content), formats=FORMATS)
    except Exception:  # a damaged file makes Pillow raise whatever its bytes lead to
        raise CxrError(
            f"{path} is not an image that can be read, or is far too large; save it as PNG, JPEG, "
            "TIFF, BMP, WebP or DICOM"
        ) from None
    with image:
        check_size(path, *image.size)
        _check_layout(image, content, path)
        notes = Notes()
        try:
            image.load()
            return Picture(path, _grey(image, content, notes), notes)
        except Exception:  # as above
            raise CxrError(f"{path} is damaged or cut short; get the file again") from None


def _check_layout(image: Image.Image, content: bytes, path: Path) -> None:
    # The other frames of a PNG are an animation; its first is what every viewer shows.
    n_frames = 1 if image.format == "PNG" else getattr(image, "n_frames", 1)
    if n_frames > 1:
        raise CxrError(f"{path} has {n_frames} images; save each as a file of its own")
    if _has_deep_channels(image, content):
        raise CxrError(
            f"{path} has 16 bits per channel, of which only 8 can be read; save it as 16-bit grey "
            "without transparency"
        )


def _has_deep_channels(image: Image.Image, content: bytes) -> bool:
    """Whether Pillow would keep the upper 8 bits of each channel alone."""
    if image.format == "PNG":
        return content[24] == 16 and not image.mode.startswith("I")  # the header's bit depth
    bits = _tiff_tag(image, BITSPERSAMPLE)
    return isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8


def _grey(image: Image.Image, content: bytes, notes: Notes) -> Grey:
    upright = ImageOps.exif_transpose(image)
    if upright.mode[0] in "IF":
        return _of_numbers(upright, image, content, notes)
    return _of_bytes(upright, notes)


def _of_numbers(upright: Image.Image, image: Image.Image, content: bytes, notes: Notes) -> Grey:
    """An image of more than 8 bits, of whose values few files say which one is white."""
    values = np.asarray(upright, np.float64)
    hidden = values == upright.info.get("transparency")
    if hidden.any():
        _note_transparency(float(hidden.mean()), notes)
    bits = _significant_bits(image, content)
    if bits is None:
        low, high = own_range(values, hidden)
        notes.warn(
            "depth",
            f"does not say which value is white; its own range, {low:g} to {high:g}, became black "
            "to white",
        )
    else:
        low, high = 0, 65535 if _is_scaled(values.astype(np.int64), bits) else 2**bits - 1
        notes.assume("depth", f"{bits} bits as the file says, white is {high}")
    grey = to_grey(values, low, high)
    if _tiff_tag(image, PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        notes.assume("inverted", "TIFF's white is zero")  # which Pillow heeds at 8 bits alone
        grey = np.asarray(255 - grey, np.uint8)
    grey[hidden] = 0
    return grey


def _of_bytes(image: Image.Image, notes: Notes) -> Grey:
    if image.mode not in ("1", "L", "LA"):
        colours = np.asarray(image.convert("RGB"), np.int16)
        if (colours.max(axis=2) - colours.min(axis=2)).mean() > COLOURFUL:
            notes.warn("colour", "is in colour, and chest X-rays are grey")
    if not image.has_transparency_data:
        return np.asarray(image.convert("L"))
    seen = image.convert("RGBA")
    alpha = np.asarray(seen.getchannel("A"), np.float64) / 255
    if (alpha < 1).any():
        _note_transparency(float((alpha < 1).mean()), notes)
    return np.asarray(np.rint(np.asarray(seen.convert("RGB").convert("L")) * alpha), np.uint8)


def _note_transparency(share: float, notes: Notes) -> None:
    notes.warn("alpha", f"has transparent pixels ({100 * share:.1f} %), which were drawn on black")


def _significant_bits(image: Image.Image, content: bytes) -> int | None:
    """Bits of a value that the file says are used: PNG's sBIT chunk, TIFF's BitsPerSample."""
    if image.format == "PNG":
        # Pillow does not keep the chunk.
        stated = next((data for kind, data in _png_chunks(content) if kind == b"sBIT"), b"")
        return stated[0] if stated and 0 < stated[0] <= 16 else None
    bits = _tiff_tag(image, BITSPERSAMPLE)
    return bits[0] if isinstance(bits, tuple) and 8 < bits[0] < 16 else None


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of each chunk in front of the pixels."""
    place, kind = PNG_START, b""
    while kind != b"IDAT" and place + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        yield kind, content[place + 8 : place + 8 + length]
        place += length + 12  # with the checksum


def _is_scaled(values: Ints, bits: int) -> bool:
    """Whether values of `bits` bits were scaled up to 16 bits, as the PNG standard asks.

    Then their lower bits are zeros, repeat the upper ones, or come of a multiplication ("Sample
    depth scaling"). Files of detectors often hold the values as they are.
    """
    spare = 16 - bits
    upper, lower = values >> spare, values & (2**spare - 1)
    multiplied = np.rint(upper * 65535 / (2**bits - 1)).astype(np.int64)
    repeated = upper >> max(0, bits - spare)
    return bool(((lower == 0) | (lower == repeated) | (values == multiplied)).all())


def _tiff_tag(image: Image.Image, tag: int) -> object:
    return image.tag_v2.get(tag) if isinstance(image, TiffImageFile) else None

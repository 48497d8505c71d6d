"""Malicious images: decompression bombs, false sizes, and paths that are not files."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import image_files
import numpy as np
import pydicom
import pytest
from image_files import chunk
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)
from valid import refusal

from cxr.data.images import files
from cxr.errors import CxrError

Make = Callable[[Path], None]
GREY = np.tile(np.arange(64, dtype=np.uint8), (64, 1))


def png(width: int, height: int, rows: bytes, *more: bytes, depth: int = 8) -> bytes:
    """A grey PNG with the given values in its header."""
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def text(content: bytes) -> Make:
    return lambda path: path.write_bytes(content) and None


def jpeg(width: int, height: int) -> Make:
    """A JPEG of 64 x 64 pixels whose header states another size."""

    def make(path: Path) -> None:
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(path, format="JPEG")
        content = bytearray(path.read_bytes())
        position = content.index(b"\xff\xc0") + 5
        content[position : position + 4] = struct.pack(">HH", height, width)
        path.write_bytes(content)

    return make


def dicom(syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Make:
    """A DICOM file of 64 x 64 pixels with the given tags."""
    return lambda path: image_files.dicom(path, GREY, syntax, **tags) and None


def inside(width: int, height: int) -> bytes:
    """A JPEG encapsulated as compressed DICOM pixels."""
    buffer = BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(buffer, format="JPEG")
    return encapsulate([buffer.getvalue()])


def sequence(depth: int) -> Make:
    """A DICOM file with nested sequences."""

    def make(path: Path) -> None:
        dicom()(path)
        start = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
        item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        content = path.read_bytes()
        position = content.index(struct.pack("<HH2s", 0x0028, 0x0002, b"US"))
        path.write_bytes(content[:position] + (start + item) * depth + content[position:])

    return make


def hole(n_bytes: int) -> Make:
    def make(path: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(n_bytes)

    return make


ROW = bytes(101)
BAD: dict[str, tuple[Make, str]] = {
    "81 million pixels": (text(png(9000, 9000, b"")), "has 81,000,000 pixels; the limit is 67"),
    "a thousand million pixels": (text(png(40_000, 40_000, b"")), "far too large"),
    "sides of 31 bits": (text(png(2**31 - 1, 2**31 - 1, b"")), "far too large"),
    "no width": (text(png(0, 100, ROW * 100)), "x.png"),
    "truncated rows": (text(png(100, 200, ROW * 100)[:-30]), "x.png is damaged"),
    "an invalid bit depth": (text(png(100, 100, ROW * 100, depth=77)), "x.png"),
    "a text of 100 MB": (
        text(png(100, 100, ROW * 100, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))))),
        "x.png",
    ),
    "a truncated profile of 100 MB": (
        text(png(100, 100, ROW, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8))))), "x.png"),
    "a chunk of 2 GB": (text(b"\x89PNG\r\n\x1a\n" + b"\x7f\xff\xff\xffIHDR"), "x.png"),
    "a JPEG of 60,000 pixels": (jpeg(60_000, 60_000), "far too large"),
    "a JPEG of 9,000 pixels": (jpeg(9_000, 9_000), "has 81,000,000 pixels"),
    "a JPEG of 10,001 pixels": (jpeg(10_001, 64), "the limit is 10,000 per side"),
    "half a JPEG": (text(b"\xff\xd8\xff\xe0\x00\x10JFIF"), "x.png"),
    "a GIF": (text(b"GIF89a" + bytes(50)), "is not a supported image"),
    "PostScript": (text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not a supported"),
    "an SVG": (text(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "is not a supported image"),
    "a quarter of a gigabyte": (hole(2**28 + 1), "is too large"),
    "a pipe": (os.mkfifo, "is not a file"),
    "a folder": (Path.mkdir, "is not a file"),
    "DICOM, false rows": (dicom(Rows=9000), "but 64 x 9000 pixels need 576,000"),
    "DICOM, 64 million pixels and more": (dicom(Rows=9000, Columns=9000), "81,000,000 pixels"),
    "DICOM, 65,535 rows": (dicom(Rows=65535, Columns=65535), "the limit is 10,000 per side"),
    "DICOM, no rows": (dicom(Rows=0), "x.png"),
    "DICOM, 60,000 samples per pixel": (dicom(SamplesPerPixel=60_000), "several SamplesPerPixel"),
    "DICOM, 64 bits": (dicom(BitsAllocated=64), "4,096 bytes of PixelData"),
    "DICOM, no bits": (dicom(BitsAllocated=0), "no BitsAllocated (0028,0100)"),
    "DICOM, a million frames": (dicom(NumberOfFrames=10**6), "has 1000000 frames"),
    "DICOM, deflated": (dicom(DeflatedExplicitVRLittleEndian), "the deflated transfer syntax"),
    "DICOM, a larger JPEG inside": (
        dicom(JPEGBaseline8Bit, PixelData=inside(10_000, 9_500)), "JPEG Baseline (Process 1) that"),
    "DICOM, another JPEG inside": (
        dicom(JPEGBaseline8Bit, PixelData=inside(600, 500)), "JPEG Baseline (Process 1) that"),
    "DICOM, no JPEG inside": (
        dicom(JPEGBaseline8Bit, PixelData=encapsulate([b"x" * 90])), "JPEG Baseline (Process 1)"),
    "DICOM, endless RLE runs": (
        dicom(RLELossless, PixelData=encapsulate([struct.pack("<16I", 1, 64, *[0] * 14)
              + b"\x81\0" * 2**23])), "more than 16,777,216 bytes of RLE"),
    "DICOM, an unknown syntax": (dicom("1.2.3.4"), "compressed as 1.2.3.4, which is not supported"),
    "DICOM, 20,000 nested sequences": (sequence(20_000), "a damaged DICOM file"),
    "DICOM, an escape sequence": (dicom(Modality="\x1b[31mX"), r"(0008,0060) \x1b[31MX;"),
    "DICOM, a tag of 4 GB": (
        text(bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2**32 - 2)), "x.png"),
}  # fmt: skip


@pytest.mark.filterwarnings("error::UserWarning")  # would print a second line to stderr
@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_malicious_image_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Make, words: str
) -> None:
    path = tmp_path / "x.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(path)
    message = refusal(files.read, path)
    assert not caplog.records
    assert words in message and "x.png" in message
    assert list(tmp_path.iterdir()) == [path]


def test_valid_images_are_read(tmp_path: Path) -> None:
    text(png(100, 100, ROW * 100))(tmp_path / "x.png")
    dicom()(tmp_path / "x.dcm")
    jpeg(64, 64)(tmp_path / "x.jpg")
    pixels = {"PixelData": inside(64, 64)}
    dicom(JPEGBaseline8Bit, **pixels)(tmp_path / "y.dcm")
    for path in tmp_path.iterdir():
        assert files.read(path).grey.shape in ((100, 100), (64, 64))
    assert pydicom.dcmread(tmp_path / "x.dcm").Rows == 64


@pytest.mark.parametrize("name", ["a\nb.png", "\x1b[2J.png", "\u202egnp.exe", "x" * 300, "a\0b"])
def test_escape_sequences_in_a_file_name_are_escaped_in_messages(tmp_path: Path, name: str) -> None:
    assert "does not exist or is not a file" in refusal(files.read, tmp_path / name)


@pytest.mark.filterwarnings("ignore")  # pydicom warns when it writes these values
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e308"])
def test_a_non_finite_window_causes_no_traceback(tmp_path: Path, value: str) -> None:
    dicom(RescaleSlope=value, RescaleIntercept="0", WindowCenter=value, WindowWidth=value)(
        tmp_path / "x.dcm"
    )
    try:
        assert files.read(tmp_path / "x.dcm").grey.shape == (64, 64)
    except CxrError as error:
        assert "x.dcm" in str(error)

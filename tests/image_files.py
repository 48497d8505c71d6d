"""Image files for tests: grey gradients as bitmaps and as DICOM."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


def gradient(height: int = 60, width: int = 40) -> np.ndarray:
    """A gradient, brighter to the right and to the bottom; all four corners differ."""
    rows, columns = np.mgrid[:height, :width]
    return np.rint(200 * columns / width + 50 * rows / height).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def deep_png(path: Path, values: np.ndarray, *more: bytes) -> Path:
    """A PNG with 16 bits per channel, (H, W) or (H, W, C); `more` chunks precede the pixels."""
    height, width, *channels = values.shape
    colour = {(): 0, (2,): 4, (3,): 2, (4,): 6}[tuple(channels)]
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8).reshape(height, -1)
    packed = zlib.compress(np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes())
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def dicom(
    path: Path, stored: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: object
) -> Path:
    """A DICOM file with one grey frame; a tag set to None is left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a"])
    meta.TransferSyntaxUID = syntax
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Modality, data.PhotometricInterpretation = "DX", "MONOCHROME2"
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel = 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.BitsAllocated = stored.dtype.itemsize * 8
    data.BitsStored, data.HighBit = data.BitsAllocated, data.BitsAllocated - 1
    data.PixelData = stored.tobytes()
    for name, value in tags.items():
        if value is not None:
            setattr(data, name, value)
        elif name in data:
            delattr(data, name)
    data.save_as(path, enforce_file_format=True)
    return path


def truncated(path: Path) -> Path:
    saved(path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)))
    path.write_bytes(path.read_bytes()[:5000])
    return path


def text(path: Path) -> Path:
    path.write_text("not an image\n" * 50)
    return path

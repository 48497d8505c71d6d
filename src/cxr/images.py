"""A user's own files as grey images: PNG, JPEG and DICOM.

Every fault of a file is a CxrError of one line that names it.
"""

import glob
import logging
import os
import warnings
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import RLELossless

from cxr.errors import CxrError

Grey = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]

COLUMN = "image"  # in a table that a served model is asked with
SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
LEAST_SIDE, MOST_SIDE = 28, 10_000  # pixels
MOST_PIXELS = 2**26  # four times the sharpest radiographs; in double precision half a gigabyte
MOST_FILE_BYTES = 2**28  # so many pixels of 16 bits, twice
DEFLATED = b"1.2.840.10008.1.2.1.99"  # DICOM's way to pack a file as a whole
MOST_RUNS_BYTES = 2**24  # of an image packed by runs, which unpack to up to 64 times their size
MODALITIES = ("CR", "DX", "RG", "RF", "XR")  # what a chest X-ray may be called
COLOURFUL = 6  # mean spread of red, green and blue from which on an image counts as coloured


@dataclass(frozen=True)
class Picture:
    """One grey image at its own resolution, (H, W), and what was odd about it."""

    path: Path
    grey: Grey
    notes: list[str] = field(default_factory=list)

    def square(self, side: int, resampling: str) -> Grey:
        """Brought to (side, side): padded with black to a square, so that no chest is stretched.

        Parameters
        ----------
        resampling : Pillow's name of the filter with which the training images were made.
        """
        height, width = self.grey.shape
        longer = max(height, width)
        padded = np.zeros((longer, longer), np.uint8)
        top, left = (longer - height) // 2, (longer - width) // 2
        padded[top : top + height, left : left + width] = self.grey
        image = Image.fromarray(padded)
        return np.asarray(image.resize((side, side), Image.Resampling[resampling.upper()]))


def find(arguments: list[str]) -> list[Path]:
    """The files that files, folders and patterns name; CxrError where one names nothing."""
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if _is_folder(path):
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise CxrError(f"{path} holds no image; {', '.join(SUFFIXES)} are read")
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
        raise CxrError(f"{path} does not exist or is no file; check the path")
    try:
        if os.path.getsize(path) > MOST_FILE_BYTES:  # noqa: PTH202 - as above
            raise CxrError(f"{path} is too big; at most {MOST_FILE_BYTES:,} bytes are read")
        content = path.read_bytes()
    except OSError as error:
        raise CxrError(f"{path} can't be read: {_in_one_line(error)}") from None
    return decode(content, path)


def decode(content: bytes, path: Path) -> Picture:
    """A file's content as a grey image; `path` is what messages call it. One thread at a time."""
    is_dicom = content[128:132] == b"DICM"
    try:
        picture = _dicom_or_refusal(content, path) if is_dicom else _bitmap(content, path)
    except OSError as error:
        raise CxrError(f"{path} can't be read: {_in_one_line(error)}") from None
    height, width = picture.grey.shape
    if min(height, width) < LEAST_SIDE:
        raise CxrError(f"{path} has {width} x {height} pixels; at least {LEAST_SIDE} are needed")
    return picture


def _bitmap(content: bytes, path: Path) -> Picture:
    if path.suffix.lower() in (".dcm", ".dicom"):
        raise CxrError(
            f"{path} is no DICOM file: it does not begin as one; a PNG or JPEG needs its own suffix"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs, too, which are looked for below
            # Other formats may run programs.
            image = Image.open(BytesIO(content), formats=("PNG", "JPEG"))
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
        raise CxrError(
            f"{path} is no image of a kind that can be read, or is far too big; save it as "
            "PNG, JPEG or DICOM"
        ) from None
    with image:
        _check_side(path, *image.size)
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise CxrError(
                f"{path} is damaged: {_in_one_line(error)}; get the file again"
            ) from None
        return Picture(path, *_grey(upright))


def _grey(image: Image.Image) -> tuple[Grey, list[str]]:
    if image.mode.startswith("I"):
        values = np.asarray(image, np.float64)
        # 12-bit films are often stored in 16 bits as they are.
        full = 4095 if values.max() <= 4095 else 65535
        return _to_bytes(values / full), []
    if image.mode == "F":
        values = np.asarray(image, np.float64)
        return _stretched(values), ["its values have no stated range and were stretched"]
    notes = []
    if image.mode not in ("1", "L", "LA"):
        colours = np.asarray(image.convert("RGB"), np.int16)
        if (colours.max(axis=2) - colours.min(axis=2)).mean() > COLOURFUL:
            notes.append("is in colour, and chest X-rays are grey")
    return np.asarray(image.convert("L")), notes


def _dicom_or_refusal(content: bytes, path: Path) -> Picture:
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it would log tracebacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _dicom(content, path)
    except CxrError:
        raise
    except Exception as error:  # a damaged file makes pydicom raise whatever its bytes lead to
        raise CxrError(
            f"{path} is a damaged DICOM file: {_in_one_line(error)}; get the file again"
        ) from None


def _dicom(content: bytes, path: Path) -> Picture:
    # pydicom would unpack such a file whole, to whatever it unpacks to.
    if DEFLATED in content:
        raise CxrError(f"{path} is deflated as a whole; save it in another transfer syntax")
    # From memory, which gives no more than it has: a tag may say that it is 4 GB long.
    data = pydicom.dcmread(BytesIO(content))
    modality = data.get("Modality", "")
    if modality not in MODALITIES:
        raise CxrError(
            f"{path} is of modality {modality or '(none)'}; X-rays are {', '.join(MODALITIES)}"
        )
    if "PixelData" not in data:
        raise CxrError(f"{path} is a DICOM file without pixels; give the one of the image")
    if int(data.get("NumberOfFrames", 1) or 1) > 1:
        raise CxrError(f"{path} has {data.NumberOfFrames} frames; one image a file is read")
    kind = data.get("PhotometricInterpretation", "")
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise CxrError(f"{path} is {kind}; MONOCHROME1 and MONOCHROME2 are read")
    _check_side(path, int(data.get("Columns") or 0), int(data.get("Rows") or 0))
    if data.file_meta.TransferSyntaxUID == RLELossless and len(data.PixelData) > MOST_RUNS_BYTES:
        raise CxrError(f"{path} has more than {MOST_RUNS_BYTES:,} bytes of runs")
    with warnings.catch_warnings():
        # A picture inside may be larger than the file says; Pillow warns before it unpacks it.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        stored = data.pixel_array
    return Picture(path, _windowed(data, stored, inverted=kind == "MONOCHROME1"))


def _windowed(data: pydicom.Dataset, stored: npt.NDArray[np.generic], inverted: bool) -> Grey:
    """As a viewer shows it: rescaled, through its window or look-up table, white for dense."""
    if data.get("RescaleSlope", 1) is None:  # there and empty
        del data.RescaleSlope
    rescaled = apply_modality_lut(stored, data)
    values = np.asarray(rescaled, np.float64)
    window = [data.get(name) for name in ("WindowCenter", "WindowWidth")]
    if data.get("VOILUTSequence"):
        looked_up = apply_voi_lut(np.asarray(rescaled).astype(np.int64), data)
        shown = _stretched(np.asarray(looked_up, np.float64))
    elif all(value is not None for value in window):
        centre, width = (_first(value) for value in window)
        # PS3.3 C.11.2.1.2.1
        shown = _to_bytes((values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5)
    else:
        shown = _stretched(values)
    return np.asarray(255 - shown if inverted else shown, np.uint8)


def _first(value: object) -> float:
    """A window may be one of several."""
    several = isinstance(value, pydicom.multival.MultiValue)
    return float(value[0] if several else value)  # type: ignore[index, arg-type]


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _stretched(values: Doubles) -> Grey:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return _to_bytes((values - low) / (high - low) if high > low else np.zeros_like(values))


def _to_bytes(share: Doubles) -> Grey:
    """0..1 to 0..255."""
    return np.asarray(np.rint(np.nan_to_num(share).clip(0, 1) * 255), np.uint8)


def _check_side(path: Path, width: int, height: int) -> None:
    if max(width, height) > MOST_SIDE:
        raise CxrError(
            f"{path} has {width} x {height} pixels; at most {MOST_SIDE:,} a side are read"
        )
    if width * height > MOST_PIXELS:
        raise CxrError(f"{path} has {width * height:,} pixels; at most {MOST_PIXELS:,} are read")

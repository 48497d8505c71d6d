"""DICOM radiographs as grey images, through pydicom's own look-up tables and windows."""

import logging
import struct
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from imagecodecs import jpeg_decode, jpegls_decode
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from cxr.data.images.picture import Grey, Mask, Notes, Picture, check_size, own_range, to_grey
from cxr.errors import CxrError

DICM = slice(128, 132)  # where a DICOM file says so
# How a file without that begins: with one of the first tags of groups 2 and 8.
FIRST_TAGS = [
    struct.pack("<HH", group, element)
    for group, elements in ((2, (0, 1, 2)), (8, (0, 1, 5, 8, 18, 20, 22, 24, 96)))
    for element in elements
]
FIRST_TAGS += [tag[1::-1] + tag[:1:-1] for tag in FIRST_TAGS]  # big endian
SUFFIXES = (".dcm", ".dicom")
DEFLATED = b"1.2.840.10008.1.2.1.99"  # DICOM's way to pack a file as a whole
MODALITIES = ("CR", "DX", "RG", "RF", "XR")  # what a chest X-ray may be called
CHEST = ("CHEST", "THORAX")  # in BodyPartExamined
PRESENTATION = {"IDENTITY": "MONOCHROME2", "INVERSE": "MONOCHROME1"}  # of PresentationLUTShape
MOST_RUNS_BYTES = 2**24  # of an image packed by runs, which unpack to up to 64 times their size
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
# One decoder for each syntax, so that another one in the environment changes no grey level.
PYDICOMS_DECODERS = {
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEG2000: "pillow",
    uid.JPEG2000Lossless: "pillow",
}
# pydicom has none for these that is free for every use and survives a hostile file.
OUR_DECODERS = {
    uid.JPEGExtended12Bit: jpeg_decode,
    uid.JPEGLossless: jpeg_decode,
    uid.JPEGLosslessSV1: jpeg_decode,
    uid.JPEGLSLossless: jpegls_decode,
    uid.JPEGLSNearLossless: jpegls_decode,
}
MARKER = 0xFF  # begins each segment of a JPEG
END_OF_IMAGE = b"\xff\xd9"
FRAME_HEADERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # of the JPEGs that are read, and of JPEG-LS
UNPACK = "convert it with `gdcmconv --raw IN OUT`"

Stored = npt.NDArray[np.integer[Any]]


def begins(content: bytes) -> bool:
    """Whether a file begins as DICOM, with a preamble or, as many exports do, without."""
    return content[DICM] == b"DICM" or content[:4] in FIRST_TAGS


def decode(content: bytes, path: Path) -> Picture:
    """A DICOM file as a viewer shows it; CxrError names the file, the tag and what to do."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it would log tracebacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _picture(content, path)
    except CxrError:
        raise
    except Exception:  # a damaged file makes pydicom raise whatever its bytes lead to
        raise CxrError(f"{path} is a damaged DICOM file; export it again") from None


def _picture(content: bytes, path: Path) -> Picture:
    notes = Notes()
    data = _read(content, path)
    _check_what_it_shows(data, path, notes)
    photometric = _photometric(data, path)
    _complete(data, photometric, path, notes)
    stored = _pixels(data, path)
    if stored.shape != (int(data.Rows), int(data.Columns)):
        raise CxrError(f"{path} has pixels of several images; one image per file is read")
    padding = _padding(data, stored, path, notes)
    grey = _shown(data, stored, padding, notes)
    if photometric == "MONOCHROME1":
        notes.assume("inverted", "MONOCHROME1")
        grey = np.asarray(255 - grey, np.uint8)
    grey[padding] = 0
    return Picture(path, grey, notes)


def _read(content: bytes, path: Path) -> Dataset:
    # pydicom would unpack such a file whole, to whatever it unpacks to.
    if DEFLATED in content:
        raise CxrError(f"{path} is deflated as a whole; {UNPACK}")
    if not begins(content):
        raise CxrError(f"{path} is not a DICOM file; give a PNG or JPEG its own suffix")
    # From memory, which gives no more than it has: a tag may say that it is 4 GB long.
    data = pydicom.dcmread(BytesIO(content), force=True)  # many exports lack the preamble
    if not any(name in data for name in ("SOPClassUID", "Rows", "Columns", "PixelData")):
        raise CxrError(f"{path} is not a DICOM file, or a damaged one; export it again")
    return data


def _check_what_it_shows(data: Dataset, path: Path, notes: Notes) -> None:
    modality, body_part = (_text(data, name) for name in ("Modality", "BodyPartExamined"))
    is_chest = any(word in body_part for word in CHEST)
    if not modality or (modality == "OT" and is_chest):
        notes.warn("modality", f"has Modality {modality or '(none)'}; taken for a radiograph")
    elif modality not in MODALITIES:
        raise CxrError(
            f"{path} has Modality (0008,0060) {modality}; X-rays have {', '.join(MODALITIES)}"
        )
    elif modality == "RF":
        notes.warn("modality", "has Modality RF, fluoroscopy; a radiograph is expected")
    elif modality != data.Modality:
        notes.assume("modality", f"{data.Modality} read as {modality}")
    if body_part and not is_chest:
        notes.warn("body part", f"has BodyPartExamined {body_part}, not CHEST")
    if "PixelData" not in data:
        raise CxrError(f"{path} is a DICOM file without pixels; give the one of the image")
    if not data["PixelData"].value:
        raise CxrError(f"{path} has an empty PixelData (7FE0,0010); export it again")
    n_frames = _number(data, "NumberOfFrames") or 1
    if n_frames > 1:
        raise CxrError(f"{path} has {n_frames:.0f} frames; one image per file is read")
    if (_number(data, "SamplesPerPixel") or 1) != 1:
        raise CxrError(f"{path} has several SamplesPerPixel (0028,0002); grey images are read")
    for name, tag in (("Rows", "0028,0010"), ("Columns", "0028,0011")):
        if not _number(data, name):
            raise CxrError(f"{path} has no {name} ({tag}); export it again")
    check_size(path, int(data.Columns), int(data.Rows))


def _photometric(data: Dataset, path: Path) -> str:
    """Whether black is low or high: MONOCHROME2 or MONOCHROME1."""
    kind = _text(data, "PhotometricInterpretation")
    if not kind:
        kind = PRESENTATION.get(_text(data, "PresentationLUTShape"), "")
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise CxrError(
            f"{path} has PhotometricInterpretation (0028,0004) {kind or '(none)'}; grey images "
            "have MONOCHROME1 or MONOCHROME2"
        )
    return kind


def _complete(data: Dataset, photometric: str, path: Path, notes: Notes) -> None:
    """Fill in what the standard or another tag decides, so that pydicom finds it."""

    filled: list[str] = []

    def fill(name: str, value: object) -> None:
        if name not in data or data[name].value is None:
            setattr(data, name, value)
            filled.append(f"{name} {value}")

    if not hasattr(data, "file_meta"):
        data.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in data.file_meta:
        is_implicit, is_little_endian = data.original_encoding
        syntax = uid.ExplicitVRLittleEndian if is_little_endian else uid.ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if is_implicit else syntax
        if data["PixelData"].is_undefined_length:
            raise CxrError(
                f"{path} has no TransferSyntaxUID (0002,0010), which says how its pixels are "
                "packed; export it again"
            )
        filled.append(f"TransferSyntaxUID {data.file_meta.TransferSyntaxUID.name}")
    fill("PhotometricInterpretation", photometric)
    data.PhotometricInterpretation = photometric  # which pydicom knows in upper case alone
    fill("SamplesPerPixel", 1)
    fill("PixelRepresentation", 0)
    if not _number(data, "BitsAllocated"):
        raise CxrError(f"{path} has no BitsAllocated (0028,0100); export it again")
    high_bit = _number(data, "HighBit")
    fill("BitsStored", int(data.BitsAllocated if high_bit is None else high_bit + 1))
    if filled:
        notes.assume("tags", f"missing, taken as {', '.join(filled)}")


def _pixels(data: Dataset, path: Path) -> Stored:
    """Stored values (H, W)."""
    syntax = UID(data.file_meta.TransferSyntaxUID)
    if syntax in NATIVE:
        return _native(data, path)
    if syntax not in PYDICOMS_DECODERS | OUR_DECODERS:
        raise CxrError(f"{path} is packed as {syntax.name}, which is not read; {UNPACK}")
    if syntax == uid.RLELossless and len(data.PixelData) > MOST_RUNS_BYTES:
        raise CxrError(f"{path} has more than {MOST_RUNS_BYTES:,} bytes of runs")
    try:
        if syntax in OUR_DECODERS:
            return _unpacked(data, OUR_DECODERS[syntax])
        with warnings.catch_warnings():
            # A picture inside may be larger than the file says; Pillow warns before it unpacks it.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return pixel_array(data, decoding_plugin=PYDICOMS_DECODERS[syntax])
    except Exception:  # whatever a decoder makes of damaged bytes
        raise CxrError(
            f"{path} has pixels packed as {syntax.name} that can't be unpacked; {UNPACK}, or "
            "export it again"
        ) from None


def _native(data: Dataset, path: Path) -> Stored:
    needed = int(data.Rows) * int(data.Columns) * int(data.BitsAllocated) // 8
    if len(data.PixelData) < needed:
        raise CxrError(
            f"{path} has {len(data.PixelData):,} bytes of PixelData (7FE0,0010), and "
            f"{data.Columns} x {data.Rows} pixels need {needed:,}; export it again"
        )
    # Values may lie in the upper bits, as old files have them; pydicom looks at the lower ones.
    high_bit = _number(data, "HighBit")
    shift = 0 if high_bit is None else max(0, int(high_bit) + 1 - int(data.BitsStored))
    data.BitsStored = int(data.BitsStored) + shift
    return np.asarray(pixel_array(data) >> shift)


def _unpacked(data: Dataset, decoder: Callable[[bytes], Any]) -> Stored:
    """The one frame of a packed file, whose own header must state the size that the file states."""
    stream = next(generate_frames(data.PixelData, number_of_frames=1))
    shape = (int(data.Rows), int(data.Columns))
    if _jpeg_layout(stream) != (*shape, 1):
        raise ValueError("another size, or several channels")
    if not stream.rstrip(b"\0\xff").endswith(END_OF_IMAGE):
        raise ValueError("cut short, of which the decoder would make up the rest")
    values = np.asarray(decoder(stream))
    if values.shape != shape or values.dtype.kind != "u":
        raise ValueError("not one grey image")
    if data.PixelRepresentation == 0:
        return values
    signed, limit = values.astype(np.int32), 2 ** (int(data.BitsStored) - 1)
    return np.where(signed >= limit, signed - 2 * limit, signed)


def _jpeg_layout(stream: bytes) -> tuple[int, ...] | None:
    """Height, width and number of channels in the frame header of a JPEG; None without one."""
    place = 2  # behind the start of the image
    while place + 10 <= len(stream) and stream[place] == MARKER:
        kind, length = struct.unpack(">BH", stream[place + 1 : place + 4])
        if kind in FRAME_HEADERS:
            return struct.unpack(">HHB", stream[place + 5 : place + 10])
        place += length + 2
    return None


def _padding(data: Dataset, stored: Stored, path: Path, notes: Notes) -> Mask:
    """Which pixels (H, W) lie around the film: PixelPaddingValue, or from there to its range."""
    value = _number(data, "PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    limit = _number(data, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    padding = np.asarray((stored >= low) & (stored <= high))
    if padding.all():
        raise CxrError(f"{path} is padding as a whole, by its PixelPaddingValue (0028,0120)")
    if padding.any():
        notes.assume("padding", f"{low:g}{f' to {high:g}' if high > low else ''}, drawn black")
    return padding


def _shown(data: Dataset, stored: Stored, padding: Mask, notes: Notes) -> Grey:
    """Grey levels (H, W): rescaled, then by table or window, else by the image's own range."""
    values = _rescaled(data, stored, notes)
    if values is None:
        return _without_window(data, stored, padding, notes)
    grey = _by_table(data, values, notes)
    if grey is None:
        grey = _by_window(data, values, notes)
    if grey is None:
        return _without_window(data, values, padding, notes)
    if _is_flat(grey[~padding]) and not _is_flat(stored[~padding]):
        named = notes.assumed["window"]
        notes.warn("window", f"is of one grey level through its {named}; its own range is shown")
        return _without_window(data, values, padding, notes)
    return grey


def _without_window(data: Dataset, values: npt.NDArray[Any], padding: Mask, notes: Notes) -> Grey:
    if values.dtype.kind == "u" and data.BitsStored == 8:  # as in a bitmap
        notes.assume("window", "none, 8 bits are grey levels")
        return np.asarray(values, np.uint8)
    numbers = np.asarray(values, np.float64)
    low, high = own_range(numbers, padding)
    notes.assume("window", f"none, its own range {low:g} to {high:g}")
    return to_grey(numbers, low, high)


def _rescaled(data: Dataset, stored: Stored, notes: Notes) -> npt.NDArray[Any] | None:
    """The output of the modality LUT or of slope and intercept; None where they can't be used."""
    if data.get("ModalityLUTSequence"):
        try:
            _widen(data.ModalityLUTSequence[0], data)
            return np.asarray(apply_modality_lut(stored, data))
        except Exception:  # as in a VOI LUT
            notes.warn("window", "has a ModalityLUTSequence (0028,3000) that can't be used")
            return None
    slope, intercept = (_number(data, name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope == 0:
        notes.warn("window", "has RescaleSlope (0028,1053) 0; its own range is shown")
        return None
    if slope in (None, 1) and not intercept:
        return stored
    return stored * (1.0 if slope is None else slope) + (intercept or 0.0)


def _by_table(data: Dataset, rescaled: npt.NDArray[Any], notes: Notes) -> Grey | None:
    """Through the first VOI look-up table; None where there is none that can be used."""
    if not data.get("VOILUTSequence"):
        return None
    try:
        item = data.VOILUTSequence[0]
        bits = _widen(item, data)
        n_entries, first, _ = item.LUTDescriptor
        entries = apply_voi(np.arange(first, first + (n_entries or 2**16)), data)
        found = apply_voi(np.rint(rescaled).astype(np.int64), data)
    except Exception:  # an item may lack or contradict any of its tags
        notes.warn("window", "has a VOILUTSequence (0028,3010) that can't be used")
        return None
    low, high = 0, 2**bits - 1
    if int(entries.max()).bit_length() != bits:
        low, high = int(entries.min()), int(entries.max())
        notes.warn(
            "window",
            f"has a VOI LUT of {bits} bits whose entries run from {low} to {high}, which became "
            "black to white",
        )
    else:
        notes.assume("window", "VOI LUT")
    return to_grey(np.asarray(found, np.float64), low, high)


def _by_window(data: Dataset, rescaled: npt.NDArray[Any], notes: Notes) -> Grey | None:
    """Through the first window; None where there is none that can be used."""
    centre, width = (_number(data, name) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    function = _text(data, "VOILUTFunction") or "LINEAR"
    # Without rescaling, and with the bits of a grey level, which then is what pydicom gives.
    window = Dataset()
    window.PhotometricInterpretation, window.PixelRepresentation = "MONOCHROME2", 0
    window.BitsStored = 8
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = centre, width, function
    named = f"WindowCenter {centre:g}, WindowWidth {width:g}, {function}"
    try:
        found = apply_windowing(rescaled, window)
    except ValueError:  # a width or a function that the standard does not know
        notes.warn("window", f"has {named}, which is not valid; its own range is shown")
        return None
    if function == "LINEAR" and width == 1:
        notes.warn("window", f"has {named}, which leaves only black and white")
    else:
        notes.assume("window", named)
    return to_grey(found, 0, 255)


def _widen(item: Dataset, data: Dataset) -> int:
    """The bits of a look-up table's entries; pydicom is given 16, as it holds no other in full."""
    n_entries, first, bits = (int(value) for value in item.LUTDescriptor)
    if not 8 <= bits <= 16:
        raise ValueError("bits that no table has")
    item.LUTDescriptor = [n_entries, first, 16]
    if bits == 8 and isinstance(item.LUTData, bytes) and len(item.LUTData) == n_entries:
        is_little_endian = UID(data.file_meta.TransferSyntaxUID).is_little_endian
        packed = np.frombuffer(item.LUTData, np.uint8)  # PS3.3 C.11.1.1 knows a byte each, too
        item.LUTData = packed.astype("<u2" if is_little_endian else ">u2").tobytes()
    return bits


def _is_flat(values: npt.NDArray[Any]) -> bool:
    return bool(values.min() == values.max())


def _number(data: Dataset, name: str) -> float | None:
    """The first value of a tag; None where it is missing, empty or not a number."""
    try:
        value = data.get(name)
        first = value[0] if isinstance(value, pydicom.multival.MultiValue) else value
        number = float(first)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def _text(data: Dataset, name: str) -> str:
    return str(data.get(name) or "").strip().upper()

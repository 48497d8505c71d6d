"""Read DICOM radiographs as grey images, with pydicom's look-up tables and windows."""

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

DICM = slice(128, 132)  # position of DICOM's magic bytes
# A file without the magic bytes starts with one of the first tags of groups 2 and 8.
FIRST_TAGS = [
    struct.pack("<HH", group, element)
    for group, elements in ((2, (0, 1, 2)), (8, (0, 1, 5, 8, 18, 20, 22, 24, 96)))
    for element in elements
]
FIRST_TAGS += [tag[1::-1] + tag[:1:-1] for tag in FIRST_TAGS]  # big endian
SUFFIXES = (".dcm", ".dicom")
DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax that compresses the whole data set
MODALITIES = ("CR", "DX", "RG", "RF", "XR")  # modalities of chest X-rays
CHEST = ("CHEST", "THORAX")  # in BodyPartExamined
PRESENTATION = {"IDENTITY": "MONOCHROME2", "INVERSE": "MONOCHROME1"}  # of PresentationLUTShape
MOST_RUNS_BYTES = 2**24  # of RLE pixels, which decompress to up to 64 times their size
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
# One fixed decoder per syntax, so that other installed decoders can't change grey levels.
PYDICOMS_DECODERS = {
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEG2000: "pillow",
    uid.JPEG2000Lossless: "pillow",
}
# pydicom has no freely licensed decoder for these that withstands malicious files.
OUR_DECODERS = {
    uid.JPEGExtended12Bit: jpeg_decode,
    uid.JPEGLossless: jpeg_decode,
    uid.JPEGLosslessSV1: jpeg_decode,
    uid.JPEGLSLossless: jpegls_decode,
    uid.JPEGLSNearLossless: jpegls_decode,
}
MARKER = 0xFF  # begins each segment of a JPEG
END_OF_IMAGE = b"\xff\xd9"
FRAME_HEADERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # of supported JPEGs and of JPEG-LS
CONVERT = "convert it with `gdcmconv --raw IN OUT`"

Stored = npt.NDArray[np.integer[Any]]


def has_dicom_header(content: bytes) -> bool:
    """Whether a file starts as DICOM, with a preamble or without, as many exports do."""
    return content[DICM] == b"DICM" or content[:4] in FIRST_TAGS


def decode(content: bytes, path: Path) -> Picture:
    """Decode a DICOM file as a viewer shows it; CxrError names the file, the tag and the fix."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # pydicom would log tracebacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _picture(content, path)
    except CxrError:
        raise
    except Exception:  # pydicom raises many types on damaged files
        raise CxrError(f"{path} is a damaged DICOM file; export it again") from None


def _picture(content: bytes, path: Path) -> Picture:
    notes = Notes()
    data = _read(content, path)
    _check_content(data, path, notes)
    photometric = _photometric(data, path)
    _fill_missing_tags(data, photometric, path, notes)
    stored = _pixels(data, path)
    if stored.shape != (int(data.Rows), int(data.Columns)):
        raise CxrError(f"{path} contains several images; save each as a separate file")
    padding = _padding(data, stored, path, notes)
    grey = _grey_levels(data, stored, padding, notes)
    if photometric == "MONOCHROME1":
        notes.assume("inverted", "MONOCHROME1")
        grey = np.asarray(255 - grey, np.uint8)
    grey[padding] = 0
    return Picture(path, grey, notes)


def _read(content: bytes, path: Path) -> Dataset:
    # pydicom would decompress the whole file without a size limit.
    if DEFLATED in content:
        raise CxrError(
            f"{path} uses the deflated transfer syntax, which is not supported; {CONVERT}"
        )
    if not has_dicom_header(content):
        raise CxrError(
            f"{path} is not a DICOM file; if it is a bitmap, rename it with its own suffix"
        )
    # From memory, because a tag may state a length of 4 GB.
    data = pydicom.dcmread(BytesIO(content), force=True)  # many exports lack the preamble
    if not any(name in data for name in ("SOPClassUID", "Rows", "Columns", "PixelData")):
        raise CxrError(f"{path} is not a DICOM file or is damaged; export it again")
    return data


def _check_content(data: Dataset, path: Path, notes: Notes) -> None:
    modality, body_part = (_text(data, name) for name in ("Modality", "BodyPartExamined"))
    is_chest = any(word in body_part for word in CHEST)
    if not modality or (modality == "OT" and is_chest):
        notes.warn("modality", f"has Modality {modality or '(none)'}; treated as a radiograph")
    elif modality not in MODALITIES:
        raise CxrError(
            f"{path} has Modality (0008,0060) {modality}; expected one of {', '.join(MODALITIES)}"
        )
    elif modality == "RF":
        notes.warn("modality", "has Modality RF (fluoroscopy); expected a radiograph")
    elif modality != data.Modality:
        notes.assume("modality", f"{data.Modality} read as {modality}")
    if body_part and not is_chest:
        notes.warn("body part", f"has BodyPartExamined {body_part}, not CHEST")
    if "PixelData" not in data:
        raise CxrError(
            f"{path} is a DICOM file without pixels; use the file that contains the image"
        )
    if not data["PixelData"].value:
        raise CxrError(f"{path} has an empty PixelData (7FE0,0010); export it again")
    n_frames = _number(data, "NumberOfFrames") or 1
    if n_frames > 1:
        raise CxrError(f"{path} has {n_frames:.0f} frames; export each as a separate file")
    if (_number(data, "SamplesPerPixel") or 1) != 1:
        raise CxrError(f"{path} has several SamplesPerPixel (0028,0002); expected 1 (grey)")
    for name, tag in (("Rows", "0028,0010"), ("Columns", "0028,0011")):
        if not _number(data, name):
            raise CxrError(f"{path} has no {name} ({tag}); export it again")
    check_size(path, int(data.Columns), int(data.Rows))


def _photometric(data: Dataset, path: Path) -> str:
    """MONOCHROME2 (low values are black) or MONOCHROME1 (low values are white)."""
    kind = _text(data, "PhotometricInterpretation")
    if not kind:
        kind = PRESENTATION.get(_text(data, "PresentationLUTShape"), "")
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise CxrError(
            f"{path} has PhotometricInterpretation (0028,0004) {kind or '(none)'}; expected "
            "MONOCHROME1 or MONOCHROME2"
        )
    return kind


def _fill_missing_tags(data: Dataset, photometric: str, path: Path, notes: Notes) -> None:
    """Add missing tags that pydicom needs and that the standard or other tags determine."""

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
                f"{path} has no TransferSyntaxUID (0002,0010), so the compression of its pixels "
                "is unknown; export it again"
            )
        filled.append(f"TransferSyntaxUID {data.file_meta.TransferSyntaxUID.name}")
    fill("PhotometricInterpretation", photometric)
    data.PhotometricInterpretation = photometric  # pydicom needs upper case
    fill("SamplesPerPixel", 1)
    fill("PixelRepresentation", 0)
    if not _number(data, "BitsAllocated"):
        raise CxrError(f"{path} has no BitsAllocated (0028,0100); export it again")
    high_bit = _number(data, "HighBit")
    fill("BitsStored", int(data.BitsAllocated if high_bit is None else high_bit + 1))
    if filled:
        notes.assume("tags", f"missing, assumed {', '.join(filled)}")


def _pixels(data: Dataset, path: Path) -> Stored:
    """Stored values (H, W)."""
    syntax = UID(data.file_meta.TransferSyntaxUID)
    if syntax in NATIVE:
        return _native(data, path)
    if syntax not in PYDICOMS_DECODERS | OUR_DECODERS:
        raise CxrError(f"{path} is compressed as {syntax.name}, which is not supported; {CONVERT}")
    if syntax == uid.RLELossless and len(data.PixelData) > MOST_RUNS_BYTES:
        raise CxrError(
            f"{path} has more than {MOST_RUNS_BYTES:,} bytes of RLE pixels, the limit; {CONVERT}"
        )
    try:
        if syntax in OUR_DECODERS:
            return _decompressed(data, OUR_DECODERS[syntax])
        with warnings.catch_warnings():
            # The image inside may be larger than stated; Pillow warns before decompressing it.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return pixel_array(data, decoding_plugin=PYDICOMS_DECODERS[syntax])
    except Exception:  # decoders raise many types on damaged bytes
        raise CxrError(
            f"{path} has pixels compressed as {syntax.name} that can't be decompressed; {CONVERT}, "
            "or export it again"
        ) from None


def _native(data: Dataset, path: Path) -> Stored:
    needed = int(data.Rows) * int(data.Columns) * int(data.BitsAllocated) // 8
    if len(data.PixelData) < needed:
        raise CxrError(
            f"{path} has {len(data.PixelData):,} bytes of PixelData (7FE0,0010), but "
            f"{data.Columns} x {data.Rows} pixels need {needed:,}; export it again"
        )
    # Old files may store values in the upper bits; pydicom reads the lower ones.
    high_bit = _number(data, "HighBit")
    shift = 0 if high_bit is None else max(0, int(high_bit) + 1 - int(data.BitsStored))
    data.BitsStored = int(data.BitsStored) + shift
    return np.asarray(pixel_array(data) >> shift)


def _decompressed(data: Dataset, decoder: Callable[[bytes], Any]) -> Stored:
    """The frame of a compressed file; its JPEG header must match the size in the DICOM tags."""
    stream = next(generate_frames(data.PixelData, number_of_frames=1))
    shape = (int(data.Rows), int(data.Columns))
    if _jpeg_layout(stream) != (*shape, 1):
        raise ValueError("size differs from the tags, or several channels")
    if not stream.rstrip(b"\0\xff").endswith(END_OF_IMAGE):
        raise ValueError("truncated; the decoder would invent the rest")
    values = np.asarray(decoder(stream))
    if values.shape != shape or values.dtype.kind != "u":
        raise ValueError("not a single grey image")
    if data.PixelRepresentation == 0:
        return values
    signed, limit = values.astype(np.int32), 2 ** (int(data.BitsStored) - 1)
    return np.where(signed >= limit, signed - 2 * limit, signed)


def _jpeg_layout(stream: bytes) -> tuple[int, ...] | None:
    """Height, width and number of channels in the frame header of a JPEG; None without one."""
    position = 2  # after the start-of-image marker
    while position + 10 <= len(stream) and stream[position] == MARKER:
        kind, length = struct.unpack(">BH", stream[position + 1 : position + 4])
        if kind in FRAME_HEADERS:
            return struct.unpack(">HHB", stream[position + 5 : position + 10])
        position += length + 2
    return None


def _padding(data: Dataset, stored: Stored, path: Path, notes: Notes) -> Mask:
    """Mask of the padding (H, W): PixelPaddingValue, or from it to PixelPaddingRangeLimit."""
    value = _number(data, "PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    limit = _number(data, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    padding = np.asarray((stored >= low) & (stored <= high))
    if padding.all():
        raise CxrError(
            f"{path} consists of padding only (PixelPaddingValue (0028,0120)); export it again"
        )
    if padding.any():
        notes.assume("padding", f"{low:g}{f' to {high:g}' if high > low else ''}, drawn black")
    return padding


def _grey_levels(data: Dataset, stored: Stored, padding: Mask, notes: Notes) -> Grey:
    """Grey levels (H, W): rescaled, then through a VOI LUT or window, else by the own range."""
    values = _rescaled(data, stored, notes)
    if values is None:
        return _without_window(data, stored, padding, notes)
    grey = _apply_voi_lut(data, values, notes)
    if grey is None:
        grey = _apply_window(data, values, notes)
    if grey is None:
        return _without_window(data, values, padding, notes)
    if _is_flat(grey[~padding]) and not _is_flat(stored[~padding]):
        window = notes.assumed["window"]
        notes.warn(
            "window", f"has a single grey level through its {window}; its own range is used instead"
        )
        return _without_window(data, values, padding, notes)
    return grey


def _without_window(data: Dataset, values: npt.NDArray[Any], padding: Mask, notes: Notes) -> Grey:
    if values.dtype.kind == "u" and data.BitsStored == 8:  # as in a bitmap
        notes.assume("window", "none, 8-bit values are grey levels")
        return np.asarray(values, np.uint8)
    numbers = np.asarray(values, np.float64)
    low, high = own_range(numbers, padding)
    notes.assume("window", f"none, its own range {low:g} to {high:g}")
    return to_grey(numbers, low, high)


def _rescaled(data: Dataset, stored: Stored, notes: Notes) -> npt.NDArray[Any] | None:
    """The output of the modality LUT or of slope and intercept; None if they are invalid."""
    if data.get("ModalityLUTSequence"):
        try:
            _widen(data.ModalityLUTSequence[0], data)
            return np.asarray(apply_modality_lut(stored, data))
        except Exception:  # as for a VOI LUT
            notes.warn(
                "window", "has an invalid ModalityLUTSequence (0028,3000); its own range is used"
            )
            return None
    slope, intercept = (_number(data, name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope == 0:
        notes.warn("window", "has RescaleSlope (0028,1053) 0; its own range is used")
        return None
    if slope in (None, 1) and not intercept:
        return stored
    return stored * (1.0 if slope is None else slope) + (intercept or 0.0)


def _apply_voi_lut(data: Dataset, rescaled: npt.NDArray[Any], notes: Notes) -> Grey | None:
    """Apply the first VOI look-up table; None if it is missing or invalid."""
    if not data.get("VOILUTSequence"):
        return None
    try:
        item = data.VOILUTSequence[0]
        bits = _widen(item, data)
        n_entries, first, _ = item.LUTDescriptor
        entries = apply_voi(np.arange(first, first + (n_entries or 2**16)), data)
        output = apply_voi(np.rint(rescaled).astype(np.int64), data)
    except Exception:  # an item may lack or contradict any of its tags
        notes.warn("window", "has an invalid VOILUTSequence (0028,3010), which was ignored")
        return None
    low, high = 0, 2**bits - 1
    if int(entries.max()).bit_length() != bits:
        low, high = int(entries.min()), int(entries.max())
        notes.warn(
            "window",
            f"has a VOI LUT of {bits} bits whose entries range from {low} to {high}; that range "
            "was scaled to 0 to 255",
        )
    else:
        notes.assume("window", "VOI LUT")
    return to_grey(np.asarray(output, np.float64), low, high)


def _apply_window(data: Dataset, rescaled: npt.NDArray[Any], notes: Notes) -> Grey | None:
    """Apply the first window; None if it is missing or invalid."""
    centre, width = (_number(data, name) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    function = _text(data, "VOILUTFunction") or "LINEAR"
    # Without rescaling and with 8 bits stored, so that pydicom returns values from 0 to 255.
    window = Dataset()
    window.PhotometricInterpretation, window.PixelRepresentation = "MONOCHROME2", 0
    window.BitsStored = 8
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = centre, width, function
    description = f"WindowCenter {centre:g}, WindowWidth {width:g}, {function}"
    try:
        output = apply_windowing(rescaled, window)
    except ValueError:  # a width or function that the standard does not define
        notes.warn("window", f"has {description}, which is invalid; its own range is used")
        return None
    if function == "LINEAR" and width == 1:
        notes.warn("window", f"has {description}, which leaves only black and white")
    else:
        notes.assume("window", description)
    return to_grey(output, 0, 255)


def _widen(item: Dataset, data: Dataset) -> int:
    """Bits per entry of a look-up table, which is widened to 16 bits for pydicom in place."""
    n_entries, first, bits = (int(value) for value in item.LUTDescriptor)
    if not 8 <= bits <= 16:
        raise ValueError("expected 8 to 16 bits per entry")
    item.LUTDescriptor = [n_entries, first, 16]
    if bits == 8 and isinstance(item.LUTData, bytes) and len(item.LUTData) == n_entries:
        is_little_endian = UID(data.file_meta.TransferSyntaxUID).is_little_endian
        packed = np.frombuffer(item.LUTData, np.uint8)  # PS3.3 C.11.1.1: one byte per entry
        item.LUTData = packed.astype("<u2" if is_little_endian else ">u2").tobytes()
    return bits


def _is_flat(values: npt.NDArray[Any]) -> bool:
    return bool(values.min() == values.max())


def _number(data: Dataset, name: str) -> float | None:
    """The first value of a tag; None if it is missing, empty or not a finite number."""
    try:
        value = data.get(name)
        first = value[0] if isinstance(value, pydicom.multival.MultiValue) else value
        number = float(first)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def _text(data: Dataset, name: str) -> str:
    return str(data.get(name) or "").strip().upper()

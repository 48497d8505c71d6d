"""Reading DICOM as grey images, compared with pydicom's windows and hand-computed tables."""

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from image_files import dicom, gradient
from pydicom import Dataset, Sequence, uid
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_windowing

from cxr.data.images import files
from cxr.data.images.dicom import OUR_DECODERS
from cxr.data.images.picture import Picture
from cxr.errors import CxrError

RAW = np.rint(gradient(200, 200) / 249 * 2500).astype(np.uint16) + 600  # 12 bits, 600 to 3100
TWELVE = {"BitsStored": 12, "HighBit": 11}
WINDOW = {"WindowCenter": 1850, "WindowWidth": 2500}


def read(folder: Path, stored: np.ndarray = RAW, **tags: object) -> Picture:
    all_tags = (TWELVE if stored.dtype.itemsize == 2 else {}) | tags
    return files.read(dicom(folder / "a.dcm", stored, **all_tags))


def through_pydicom(folder: Path, values: np.ndarray) -> np.ndarray:
    """The grey levels that pydicom computes for the file just read."""
    data = pydicom.dcmread(folder / "a.dcm")
    slope, intercept = (float(data.get(n, d)) for n, d in
                        (("RescaleSlope", 1), ("RescaleIntercept", 0)))  # fmt: skip
    black, white = intercept, slope * (2**data.BitsStored - 1) + intercept
    return (apply_windowing(values, data) - black) / (white - black) * 255


@pytest.fixture
def reference(tmp_path: Path) -> np.ndarray:
    return read(tmp_path, **WINDOW).grey.astype(int)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("window", [(1850, 2500), (1700, 600), (900, 4000)])
def test_a_window_gives_the_grey_levels_of_pydicom(
    tmp_path: Path, function: str | None, window: tuple[int, int]
) -> None:
    tags = {"WindowCenter": window[0], "WindowWidth": window[1]}
    picture = read(tmp_path, **tags | ({"VOILUTFunction": function} if function else {}))
    assert np.abs(picture.grey - through_pydicom(tmp_path, RAW)).max() <= 0.51
    assert picture.notes.assumed["window"].endswith(function or "LINEAR")
    assert picture.notes.warnings == []


def test_the_first_of_several_windows_is_applied_to_rescaled_values(tmp_path: Path) -> None:
    picture = read(tmp_path, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[2500, 1],
                   WindowWidth=[3000, 1])  # fmt: skip
    assert np.abs(picture.grey - through_pydicom(tmp_path, RAW * 2.0 - 1000)).max() <= 0.51
    assert picture.grey.min() == 0  # the window clips


def test_a_negative_slope_inverts_the_film(tmp_path: Path, reference: np.ndarray) -> None:
    turned = read(tmp_path, 3700 - RAW, RescaleSlope=-1, RescaleIntercept=3700, **WINDOW)
    assert np.array_equal(turned.grey, reference)


def test_signed_values_are_read_as_signed(tmp_path: Path, reference: np.ndarray) -> None:
    signed = RAW.astype(np.int16) - 2048
    picture = read(tmp_path, signed, RescaleSlope=1, RescaleIntercept=2048, **WINDOW)
    assert np.array_equal(picture.grey, reference)


def test_values_in_the_upper_bits_are_shifted_down(tmp_path: Path, reference: np.ndarray) -> None:
    assert np.array_equal(read(tmp_path, RAW << 4, HighBit=15, **WINDOW).grey, reference)


def test_monochrome1_is_inverted_after_its_window(tmp_path: Path) -> None:
    picture = read(tmp_path, PhotometricInterpretation="MONOCHROME1", VOILUTFunction="SIGMOID",
                   WindowCenter=1200, WindowWidth=900)  # fmt: skip
    assert np.abs(picture.grey - (255 - through_pydicom(tmp_path, RAW))).max() <= 0.51
    assert picture.notes.assumed["inverted"] == "MONOCHROME1"


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_voi_lut_takes_precedence_over_a_window(tmp_path: Path, bits: int) -> None:
    """A square-root table from stored value 500 upwards; constant beyond its ends."""
    entries = np.rint(np.sqrt(np.arange(2000) / 1999) * (2**bits - 1)).astype("<u2")
    picture = read(tmp_path, VOILUTSequence=Sequence([table(entries, 500, bits)]), **WINDOW)
    expected = np.sqrt((RAW.astype(float) - 500).clip(0, 1999) / 1999) * 255
    assert np.abs(picture.grey - expected).max() <= 0.5 + 255 / 2 ** (bits + 1)
    assert picture.notes.assumed["window"] == "VOI LUT"


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_modality_lut_is_applied_before_the_window(tmp_path: Path, bits: int) -> None:
    entries = (np.arange(4096) // (16 if bits == 8 else 1)).astype("<u2")
    sequence = Sequence([table(entries, 0, bits)])
    scale = 16 if bits == 8 else 1
    tags = {"WindowCenter": 1850 / scale, "WindowWidth": 2500 / scale}
    picture = read(tmp_path, ModalityLUTSequence=sequence, **tags)
    values = entries[RAW].astype(float)
    centre, width = 1850 / scale - 0.5, 2500 / scale - 1  # PS3.3 C.11.2.1.2.1
    expected = ((values - centre) / width + 0.5).clip(0, 1) * 255
    assert np.abs(picture.grey - expected).max() <= 0.51


def test_tables_with_one_byte_per_entry_are_read(tmp_path: Path) -> None:
    stored = gradient(200, 200)
    curve = np.rint(np.sqrt(np.arange(256) / 255) * 255).astype(np.uint8)
    item = table(curve, 0, 8)
    item.LUTData = curve.tobytes()
    voi = read(tmp_path, stored, VOILUTSequence=Sequence([item]))
    assert np.array_equal(voi.grey, curve[stored]) and voi.notes.warnings == []
    whole = {"WindowCenter": 128, "WindowWidth": 256}
    modality = read(tmp_path, stored, ModalityLUTSequence=Sequence([item]), **whole)
    assert np.abs(modality.grey - curve[stored].astype(int)).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_a_table_that_contradicts_its_bits_is_scaled_with_a_warning(
    tmp_path: Path, bits: int
) -> None:
    entries = np.arange(4096)  # of 12 bits
    picture = read(tmp_path, VOILUTSequence=Sequence([table(entries, 0, bits)]))
    assert np.abs(picture.grey - RAW / 4095 * 255).max() <= 0.51
    (warning,) = picture.notes.warnings
    assert f"has a VOI LUT of {bits} bits whose entries range from 0 to 4095" in warning


def test_an_empty_modality_lut_is_ignored_with_a_warning(tmp_path: Path) -> None:
    picture = read(tmp_path, ModalityLUTSequence=Sequence([Dataset()]))
    assert np.array_equal(picture.grey, read(tmp_path).grey)
    (warning,) = picture.notes.warnings
    assert "has an invalid ModalityLUTSequence (0028,3000)" in warning


def table(entries: np.ndarray, first: int, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


def test_without_a_window_the_own_range_is_used(tmp_path: Path) -> None:
    picture = read(tmp_path)
    low, high = np.sort(RAW.ravel())[[40, -41]].astype(float)  # a thousandth of 40,000 pixels
    expected = ((RAW - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(picture.grey - expected).max() <= 0.51
    assert picture.notes.assumed == {"window": f"none, its own range {low:g} to {high:g}"}
    assert picture.notes.warnings == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_8_bits_without_a_window_are_grey_levels_as_in_a_bitmap(
    tmp_path: Path, dtype: type
) -> None:
    picture = read(tmp_path, gradient().astype(dtype), BitsStored=8, HighBit=7)
    assert np.array_equal(picture.grey, gradient())


def test_a_photometric_interpretation_in_lower_case_is_read(
    tmp_path: Path, reference: np.ndarray
) -> None:
    picture = read(tmp_path, PhotometricInterpretation="monochrome2", **WINDOW)
    assert np.array_equal(picture.grey, reference)


PADDED = {
    "low": (RAW, 0, {}),
    "high": (RAW, 4095, {}),
    "16 bits": (RAW, 65535, {"BitsStored": 16, "HighBit": 15}),
    "MONOCHROME1": (3700 - RAW, 0, {"PhotometricInterpretation": "MONOCHROME1"}),
    "signed": (RAW.astype(np.int16) - 2048, -2048, {}),
    "a range": (RAW, 4000, {"PixelPaddingRangeLimit": 4095}),
}  # fmt: skip


@pytest.mark.parametrize("case", PADDED)
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1700, "WindowWidth": 900}])
def test_padding_is_black_and_excluded_from_the_range(
    tmp_path: Path, case: str, window: dict[str, int]
) -> None:
    stored, value, tags = PADDED[case]
    if case == "signed" and window:
        tags = tags | {"RescaleIntercept": 2048, "RescaleSlope": 1}
    bordered = stored.copy()
    bordered[:, :30], bordered[:, -30:] = value, value
    bordered[:15, :30] += "PixelPaddingRangeLimit" in tags  # another value within the range
    picture = read(tmp_path, bordered, PixelPaddingValue=value, **tags, **window)
    assert picture.notes.assumed["padding"].endswith("drawn black")
    alone = read(tmp_path, np.ascontiguousarray(stored[:, 30:-30]), **tags, **window)
    assert np.array_equal(picture.grey[:, 30:-30], alone.grey)
    assert not picture.grey[:, :30].any() and not picture.grey[:, -30:].any()


def test_a_padding_value_that_no_pixel_has_changes_nothing(tmp_path: Path) -> None:
    assert "padding" not in read(tmp_path, PixelPaddingValue=4095).notes.assumed


ODD_WINDOWS = {
    "width 0": ({"WindowWidth": 0}, "WindowWidth 0, LINEAR, which is invalid"),
    "width -5": ({"WindowWidth": -5}, "WindowWidth -5, LINEAR, which is invalid"),
    "off range": ({"WindowCenter": 30000, "WindowWidth": 100}, "single grey level through its Win"),
    "unknown": ({"VOILUTFunction": "CUBIC"}, "WindowWidth 2500, CUBIC, which is invalid"),
    "slope 0": ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope (0028,1053) 0"),
    "empty table": ({"VOILUTSequence": Sequence([Dataset()]), "WindowWidth": None},
                    "has an invalid VOILUTSequence (0028,3010)"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD_WINDOWS)
def test_an_unusable_window_is_replaced_by_the_own_range_with_a_warning(
    tmp_path: Path, case: str
) -> None:
    tags, sentence = ODD_WINDOWS[case]
    own = read(tmp_path).grey
    picture = read(tmp_path, **WINDOW | tags)
    assert np.array_equal(picture.grey, own)
    assert any(sentence in warning for warning in picture.notes.warnings)
    assert picture.notes.assumed["window"].startswith("none, its own range")


def test_an_empty_voi_lut_is_ignored_in_favour_of_the_window(
    tmp_path: Path, reference: np.ndarray
) -> None:
    picture = read(tmp_path, VOILUTSequence=Sequence([Dataset()]), **WINDOW)
    assert np.array_equal(picture.grey, reference)
    (warning,) = picture.notes.warnings
    assert "has an invalid VOILUTSequence (0028,3010)" in warning


def test_a_window_of_width_1_is_a_threshold_with_a_warning(tmp_path: Path) -> None:
    picture = read(tmp_path, WindowCenter=1850, WindowWidth=1)
    assert np.array_equal(picture.grey == 255, RAW > 1849.5)
    assert "which leaves only black and white" in picture.notes.warnings[0]


@pytest.mark.parametrize("empty", ["", None])
@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
def test_an_empty_slope_is_1_and_an_empty_intercept_is_0(
    tmp_path: Path, name: str, empty: str | None, reference: np.ndarray
) -> None:
    tags: dict[str, object] = {"RescaleSlope": 1, "RescaleIntercept": 0} | {name: empty or ""}
    assert np.array_equal(read(tmp_path, **tags, **WINDOW).grey, reference)


def test_a_slope_without_an_intercept_is_applied(tmp_path: Path, reference: np.ndarray) -> None:
    picture = read(tmp_path, RescaleSlope=2, WindowCenter=3700, WindowWidth=5000)
    assert np.abs(picture.grey - reference).max() <= 1


MISSING = {
    "SamplesPerPixel": "SamplesPerPixel 1",
    "PixelRepresentation": "PixelRepresentation 0",
    "BitsStored": "BitsStored 12",
}


@pytest.mark.parametrize("name", MISSING)
def test_tags_that_follow_from_others_may_be_missing(
    tmp_path: Path, name: str, reference: np.ndarray
) -> None:
    picture = read(tmp_path, **WINDOW | {name: None})
    assert np.array_equal(picture.grey, reference)
    assert picture.notes.assumed["tags"] == f"missing, assumed {MISSING[name]}"


@pytest.mark.parametrize(("shape", "stored"), [("IDENTITY", RAW), ("INVERSE", 3700 - RAW)])
def test_presentation_lut_shape_replaces_a_missing_photometric_interpretation(
    tmp_path: Path, shape: str, stored: np.ndarray, reference: np.ndarray
) -> None:
    tags = {"PhotometricInterpretation": None, "PresentationLUTShape": shape}
    assert np.abs(read(tmp_path, stored, **tags, **WINDOW).grey - reference).max() <= 1


def test_a_file_without_preamble_or_header_is_read(tmp_path: Path, reference: np.ndarray) -> None:
    dicom(tmp_path / "a.dcm", RAW, **TWELVE, **WINDOW)
    content = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "b").write_bytes(content[132:])
    assert np.array_equal(files.read(tmp_path / "b").grey, reference)
    (tmp_path / "c.dcm").write_bytes(content[content.index(b"\x08\x00\x60\x00CS") :])
    picture = files.read(tmp_path / "c.dcm")
    assert np.array_equal(picture.grey, reference)
    assert picture.notes.assumed["tags"].endswith("TransferSyntaxUID Explicit VR Little Endian")


SUSPICIOUS = {
    "no modality": ({"Modality": None}, "has Modality (none); treated as a radiograph"),
    "OT": ({"Modality": "OT", "BodyPartExamined": "CHEST"}, "has Modality OT; treated as a"),
    "RF": ({"Modality": "RF"}, "has Modality RF (fluoroscopy); expected a"),
    "knee": ({"BodyPartExamined": "KNEE"}, "has BodyPartExamined KNEE, not CHEST"),
}


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_a_possible_other_examination_gives_a_warning(tmp_path: Path, case: str) -> None:
    tags, sentence = SUSPICIOUS[case]
    (warning,) = read(tmp_path, **tags).notes.warnings
    assert sentence in warning


@pytest.mark.parametrize("body_part", ["CHEST", "chest pa", "PORT CHEST", "THORAX", None])
def test_a_chest_radiograph_gives_no_warning(tmp_path: Path, body_part: str | None) -> None:
    tags = {"BodyPartExamined": body_part} if body_part else {}
    assert read(tmp_path, Modality="DX", **tags).notes.warnings == []


def jpeg_lossless(values: np.ndarray) -> bytes:
    return bytes(imagecodecs.ljpeg_encode(values, bitspersample=12))


def compressed(
    path: Path, syntax: str, stream: bytes, shape: tuple[int, int], **tags: object
) -> Path:
    pixels = {"PixelData": encapsulate([stream])}
    return dicom(path, np.zeros(shape, np.uint16), syntax, **TWELVE | WINDOW | pixels | tags)


COMPRESSIONS = {
    uid.JPEGLSLossless: lambda v: bytes(imagecodecs.jpegls_encode(v)),
    uid.JPEGLosslessSV1: jpeg_lossless,
    uid.JPEG2000Lossless: lambda v: bytes(imagecodecs.jpeg2k_encode(v, level=0, codecformat="j2k")),
}


@pytest.mark.parametrize("syntax", COMPRESSIONS)
def test_losslessly_compressed_pixels_equal_the_uncompressed_ones(
    tmp_path: Path, syntax: str, reference: np.ndarray
) -> None:
    path = compressed(tmp_path / "b.dcm", syntax, COMPRESSIONS[syntax](RAW), RAW.shape)
    assert np.array_equal(files.read(path).grey, reference)


def test_losslessly_compressed_signed_values_are_read_as_signed(
    tmp_path: Path, reference: np.ndarray
) -> None:
    bits = (RAW.astype(np.int32) - 2048) & 0xFFF  # two's complement of 12 bits
    stream = bytes(imagecodecs.jpegls_encode(bits.astype(np.uint16)))
    tags = {"PixelRepresentation": 1, "RescaleSlope": 1, "RescaleIntercept": 2048}
    path = compressed(tmp_path / "b.dcm", uid.JPEGLSLossless, stream, RAW.shape, **tags)
    assert np.array_equal(files.read(path).grey, reference)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEGLosslessSV1])
@pytest.mark.parametrize("change", ["larger", "smaller", "channels", "cut", "none"])
def test_inconsistent_compressed_pixels_are_refused_before_decompression(
    tmp_path: Path, syntax: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder allocates the size stated in the stream and invents missing data."""
    decoded = []
    monkeypatch.setitem(OUR_DECODERS, uid.UID(syntax), decoded.append)
    stream = bytearray(COMPRESSIONS[syntax](RAW))
    header = stream.index(b"\xff\xf7" if syntax == uid.JPEGLSLossless else b"\xff\xc3")
    if change in ("larger", "smaller"):
        side = 60_000 if change == "larger" else 100
        stream[header + 5 : header + 9] = side.to_bytes(2, "big") * 2
    elif change == "channels":
        stream[header + 9] = 255
    stream = stream[: {"cut": len(stream) // 2, "none": 2}.get(change, len(stream))]
    path = compressed(tmp_path / "b.dcm", syntax, bytes(stream), RAW.shape)
    with pytest.raises(
        CxrError, match=r"b\.dcm (has pixels compressed as .*gdcmconv|is a damaged)"
    ):
        files.read(path)
    assert decoded == []


def test_an_unsupported_transfer_syntax_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = compressed(tmp_path / "b.dcm", uid.MPEG2MPML, b"video", RAW.shape)
    with pytest.raises(
        CxrError, match=r"is compressed as MPEG2 .*, which is not supported; .*gdcmconv"
    ):
        files.read(path)


REFUSED = {
    "Rows": ({"Rows": None}, "has no Rows (0028,0010); export it again"),
    "Columns": ({"Columns": None}, "has no Columns (0028,0011)"),
    "BitsAllocated": ({"BitsAllocated": None}, "has no BitsAllocated (0028,0100)"),
    "empty": ({"PixelData": b""}, "has an empty PixelData (7FE0,0010)"),
    "double": ({"PixelData": RAW.tobytes() * 2}, "contains several images"),
    "half": ({"PixelData": b"\0" * 40_000}, "has 40,000 bytes of PixelData (7FE0,0010), but"),
    "photometric": (
        {"PhotometricInterpretation": None},
        "(0028,0004) (none); expected MONOCHROME1",
    ),
    "colour": ({"SamplesPerPixel": 3}, "has several SamplesPerPixel (0028,0002)"),
    "CT": ({"Modality": "CT"}, "has Modality (0008,0060) CT; expected one of CR, DX"),
    "OT": ({"Modality": "OT", "BodyPartExamined": "HAND"}, "has Modality (0008,0060) OT"),
    "frames": ({"NumberOfFrames": 3}, "has 3 frames"),
    "all padding": ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, "(0028,0120)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_the_file_and_the_tag(tmp_path: Path, case: str) -> None:
    tags, sentence = REFUSED[case]
    with pytest.raises(CxrError) as caught:
        read(tmp_path, **tags)
    assert sentence in str(caught.value) and str(tmp_path / "a.dcm") in str(caught.value)

"""A user's own files: all that is read, against Pillow and pydicom, and all that is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cxr import images
from cxr.errors import CxrError

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def gradient(height: int = 60, width: int = 40) -> np.ndarray:
    """Brighter to the right and below, no two corners alike."""
    rows, columns = np.mgrid[:height, :width]
    return np.rint(200 * columns / width + 50 * rows / height).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def dicom(path: Path, stored: np.ndarray, **tags: object) -> Path:
    """A DICOM file of one grey frame."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Modality, data.PhotometricInterpretation = "DX", "MONOCHROME2"
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated = stored.dtype.itemsize * 8
    data.BitsStored, data.HighBit = data.BitsAllocated, data.BitsAllocated - 1
    data.PixelData = stored.tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def test_grey_png_is_read_as_it_is(tmp_path: Path) -> None:
    picture = images.read(saved(tmp_path / "a.png", Image.fromarray(gradient())))
    assert np.array_equal(picture.grey, gradient()) and picture.notes == []


def test_jpeg_is_read_nearly_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.JPG", Image.fromarray(gradient()), quality=95)
    assert np.abs(images.read(path).grey.astype(int) - gradient()).max() <= 4


@pytest.mark.parametrize(("bits", "most"), [(16, 65535), (12, 4095)])
def test_deep_png_keeps_its_full_range(tmp_path: Path, bits: int, most: int) -> None:
    deep = np.rint(gradient() / 255.0 * most).astype(np.uint16)
    deep[0, 0], deep[-1, -1] = 0, most
    picture = images.read(saved(tmp_path / "a.png", Image.fromarray(deep)))
    assert np.abs(picture.grey[5:-5].astype(int) - gradient()[5:-5]).max() <= 1
    assert (picture.grey[0, 0], picture.grey[-1, -1]) == (0, 255)


def test_grey_in_colour_channels_is_grey_and_colour_is_noted(tmp_path: Path) -> None:
    grey = Image.fromarray(gradient())
    picture = images.read(saved(tmp_path / "rgb.png", grey.convert("RGB")))
    assert np.array_equal(picture.grey, gradient()) and picture.notes == []
    assert np.array_equal(
        images.read(saved(tmp_path / "rgba.png", grey.convert("RGBA"))).grey, gradient()
    )
    colours = np.stack([gradient(), gradient()[::-1], gradient()[:, ::-1]], axis=2)
    picture = images.read(saved(tmp_path / "cat.png", Image.fromarray(colours)))
    assert picture.notes == ["is in colour, and chest X-rays are grey"]
    assert np.array_equal(picture.grey, np.asarray(Image.fromarray(colours).convert("L")))


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: right is up
    path = saved(tmp_path / "a.png", Image.fromarray(gradient()), exif=exif)
    assert np.array_equal(images.read(path).grey, np.rot90(gradient(), -1))


def test_an_image_becomes_a_square_without_being_stretched() -> None:
    square = images.Picture(Path("a"), gradient(60, 40)).square(60, "bicubic")
    assert np.array_equal(square[:, 10:50], gradient(60, 40))
    assert not square[:, :10].any() and not square[:, 50:].any()
    wide = images.Picture(Path("a"), gradient(40, 60)).square(30, "bicubic")
    assert wide.shape == (30, 30) and not wide[:4].any() and wide[15].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dicom_without_a_window_is_stretched(tmp_path: Path, dtype: type) -> None:
    stored = gradient().astype(dtype) // 2 + 7
    picture = images.read(dicom(tmp_path / "a.dcm", stored))
    expected = (stored - stored.min()) / float(stored.max() - stored.min()) * 255
    assert np.abs(picture.grey - expected).max() <= 0.5


def test_dicom_of_inverted_grey_is_turned_round(tmp_path: Path) -> None:
    plain = images.read(dicom(tmp_path / "2.dcm", gradient()))
    inverted = dicom(tmp_path / "1.dcm", 255 - gradient(), PhotometricInterpretation="MONOCHROME1")
    assert np.abs(images.read(inverted).grey.astype(int) - plain.grey).max() <= 1


def test_dicom_is_rescaled_and_windowed_as_pydicom_does(tmp_path: Path) -> None:
    stored = gradient().astype(np.uint16) * 16
    path = dicom(
        tmp_path / "a.dcm", stored, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[2500, 1],
        WindowWidth=[3000, 1], BitsStored=12, HighBit=11,
    )  # fmt: skip
    data = pydicom.dcmread(path)
    shown = apply_windowing(stored * 2.0 - 1000, data)
    low, high = -1000, 2 * 4095 - 1000  # pydicom gives the range of what can be stored
    expected = (shown - low) / (high - low) * 255
    assert np.abs(images.read(path).grey - expected).max() <= 0.51
    assert images.read(path).grey.min() == 0  # the window cuts


def test_files_folders_and_patterns_are_found_once(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPEG", "c.txt", "d.dcm"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    found = images.find([str(tmp_path), str(tmp_path / "*.png"), str(tmp_path / "c.txt")])
    assert [path.name for path in found] == ["a.JPEG", "b.png", "d.dcm", "c.txt"]


def test_an_empty_folder_and_a_pattern_without_files(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match=r"holds no image; \.png"):
        images.find([str(tmp_path)])
    with pytest.raises(CxrError, match=r"no file matches .*\*\.png"):
        images.find([str(tmp_path / "*.png")])


def bomb(path: Path) -> Path:
    """A few kilobytes that unpack to 40,000 x 40,000 pixels."""
    Image.MAX_IMAGE_PIXELS, kept = None, Image.MAX_IMAGE_PIXELS
    try:
        return saved(path, Image.new("1", (40_000, 40_000)))
    finally:
        Image.MAX_IMAGE_PIXELS = kept


def truncated(path: Path) -> Path:
    saved(path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)))
    path.write_bytes(path.read_bytes()[:5000])
    return path


def tiff(path: Path) -> Path:
    Image.fromarray(gradient()).save(path, format="TIFF")
    return path


def text(path: Path) -> Path:
    path.write_text("not an image\n" * 50)
    return path


def lookup(path: Path) -> Path:
    """A table that shows rescaled values from 1000 on, each as itself."""
    item = pydicom.Dataset()
    item.LUTDescriptor = [4096, 1000, 16]
    item.LUTData = np.arange(4096, dtype="<u2").tobytes()
    stored = np.linspace(0, 4000, 60 * 40).astype(np.uint16).reshape(60, 40)
    tags = {"VOILUTSequence": pydicom.Sequence([item]), "RescaleSlope": 1}
    return dicom(path, stored, RescaleIntercept=1000, WindowCenter=5, WindowWidth=2, **tags)


def test_a_look_up_table_is_for_rescaled_values(tmp_path: Path) -> None:
    shown = images.read(lookup(tmp_path / "a.dcm")).grey
    expected = np.linspace(0, 255, 60 * 40).reshape(60, 40)
    assert np.abs(shown - expected).max() <= 1


def test_empty_tags_count_as_absent(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", gradient(), WindowCenter="", WindowWidth="", RescaleSlope="",
                 RescaleIntercept="", VOILUTSequence=pydicom.Sequence([]))  # fmt: skip
    plain = images.read(dicom(tmp_path / "b.dcm", gradient()))
    assert np.array_equal(images.read(path).grey, plain.grey)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda f: f / "a.png", "does not exist or is no file"),
    "folder": (lambda f: f, "does not exist or is no file"),
    "text": (lambda f: text(f / "a.png"), "is no image of a kind that can be read"),
    "text as DICOM": (lambda f: text(f / "a.dcm"), "is no DICOM file"),
    "empty": (lambda f: Path((f / "a.png").touch() or f / "a.png"), "is no image of a kind"),
    "truncated": (lambda f: truncated(f / "a.png"), "a.png is damaged"),
    "bomb": (lambda f: bomb(f / "a.png"), "is no image of a kind that can be read, or is far too"),
    "one pixel": (lambda f: saved(f / "a.png", Image.new("L", (1, 1))), "has 1 x 1 pixels"),
    "long": (
        lambda f: saved(f / "a.png", Image.new("L", (20_000, 30))),
        "has 20000 x 30 pixels; at most 10,000 a side",
    ),
    "no pixels": (
        lambda f: dicom(f / "a.dcm", gradient(), PixelData=None), "DICOM file without pixels",
    ),
    "multi-frame": (
        lambda f: dicom(f / "a.dcm", np.stack([gradient()] * 3), NumberOfFrames=3), "has 3 frames",
    ),
    "CT": (lambda f: dicom(f / "a.dcm", gradient(), Modality="CT"), "is of modality CT; X-rays"),
    "no modality": (lambda f: dicom(f / "a.dcm", gradient(), Modality=None), "of modality (none)"),
    "palette": (
        lambda f: dicom(f / "a.dcm", gradient(), PhotometricInterpretation="PALETTE COLOR"),
        "is PALETTE COLOR; MONOCHROME1",
    ),
    "pixels cut short": (
        lambda f: dicom(f / "a.dcm", gradient(), PixelData=b"\0" * 100), "is a damaged DICOM file",
    ),
    "no rows": (lambda f: dicom(f / "a.dcm", gradient(), Rows=None), "a.dcm"),
    "TIFF": (lambda f: tiff(f / "a.png"), "is no image of a kind that can be read"),
    "long name": (lambda f: f / ("x" * 300), "does not exist or is no file"),
    "wide DICOM": (
        lambda f: dicom(f / "a.dcm", gradient(), Columns=20_000), "has 20000 x 60 pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], sentence: str
) -> None:
    with pytest.raises(CxrError) as caught:
        images.read(make(tmp_path))
    assert sentence in str(caught.value) and str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
def test_real_originals_become_their_rows() -> None:
    with np.load(SHARED / "nih_real_28.npz") as file:
        row = {str(name): i for i, name in enumerate(file["test_ids"])}
        rows = file["test_images"]
    for path in images.find([str(SHARED / "images")]):
        small = images.read(path).square(28, "bicubic")
        assert np.array_equal(small, rows[row[path.stem]])

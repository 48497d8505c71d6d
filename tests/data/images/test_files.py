"""Users' image files: every refusal, and originals that reproduce the rows of the data set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from image_files import dicom, gradient, saved, text, truncated
from PIL import Image

from cxr.data.images import files
from cxr.data.images.find import find
from cxr.data.images.picture import Picture
from cxr.errors import CxrError

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def test_an_image_is_padded_to_a_square() -> None:
    square = Picture(Path("a"), gradient(60, 40)).square(60, "bicubic", "pad")
    assert np.array_equal(square[:, 10:50], gradient(60, 40))
    assert not square[:, :10].any() and not square[:, 50:].any()
    wide = Picture(Path("a"), gradient(40, 60)).square(30, "bicubic", "pad")
    assert wide.shape == (30, 30) and not wide[:4].any() and wide[15].any()


def bomb(path: Path) -> Path:
    """A few kilobytes that decompress to 40,000 x 40,000 pixels."""
    Image.MAX_IMAGE_PIXELS, limit = None, Image.MAX_IMAGE_PIXELS
    try:
        return saved(path, Image.new("1", (40_000, 40_000)))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def pointer(path: Path) -> Path:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    return path


def test_empty_tags_count_as_absent(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", gradient(), WindowCenter="", WindowWidth="", RescaleSlope="",
                 RescaleIntercept="", VOILUTSequence=pydicom.Sequence([]))  # fmt: skip
    plain = files.read(dicom(tmp_path / "b.dcm", gradient()))
    assert np.array_equal(files.read(path).grey, plain.grey)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda f: f / "a.png", "does not exist or is not a file"),
    "folder": (lambda f: f, "does not exist or is not a file"),
    "text": (lambda f: text(f / "a.png"), "is not a supported image"),
    "text as DICOM": (lambda f: text(f / "a.dcm"), "is not a DICOM file"),
    "empty": (lambda f: Path((f / "a.png").touch() or f / "a.png"), "is not a supported image"),
    "truncated": (lambda f: truncated(f / "a.png"), "a.png is damaged"),
    "bomb": (lambda f: bomb(f / "a.png"), "is not a supported image or is far too"),
    "one pixel": (lambda f: saved(f / "a.png", Image.new("L", (1, 1))), "has 1 x 1 pixels"),
    "long": (
        lambda f: saved(f / "a.png", Image.new("L", (20_000, 30))),
        "has 20000 x 30 pixels; the limit is 10,000 per side",
    ),
    "no pixels": (
        lambda f: dicom(f / "a.dcm", gradient(), PixelData=None), "DICOM file without pixels",
    ),
    "multi-frame": (
        lambda f: dicom(f / "a.dcm", np.stack([gradient()] * 3), NumberOfFrames=3), "has 3 frames",
    ),
    "CT": (lambda f: dicom(f / "a.dcm", gradient(), Modality="CT"), "Modality (0008,0060) CT"),
    "palette": (
        lambda f: dicom(f / "a.dcm", gradient(), PhotometricInterpretation="PALETTE COLOR"),
        "(0028,0004) PALETTE COLOR; expected",
    ),
    "pixels cut short": (
        lambda f: dicom(f / "a.dcm", gradient(), PixelData=b"\0" * 100), "has 100 bytes of Pixel",
    ),
    "no rows": (lambda f: dicom(f / "a.dcm", gradient(), Rows=None), "a.dcm"),
    "GIF": (
        lambda f: saved(f / "a.gif", Image.fromarray(gradient())), "is not a supported image"
    ),
    "a Git LFS pointer": (lambda f: pointer(f / "a.png"), "run `git lfs pull`"),
    "long name": (lambda f: f / ("x" * 300), "does not exist or is not a file"),
    "wide DICOM": (
        lambda f: dicom(f / "a.dcm", gradient(), Columns=20_000), "has 20000 x 60 pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_file_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], Path], sentence: str
) -> None:
    with pytest.raises(CxrError) as caught:
        files.read(make(tmp_path))
    assert sentence in str(caught.value) and str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} does not exist")
def test_real_originals_reproduce_the_rows_of_the_data_set() -> None:
    with np.load(SHARED / "nih_real_28.npz") as file:
        row = {str(name): i for i, name in enumerate(file["test_ids"])}
        rows = file["test_images"]
    for path in find([str(SHARED / "images")]).paths:
        small = files.read(path).square(28, "bicubic", "pad")
        assert np.array_equal(small, rows[row[path.stem]])

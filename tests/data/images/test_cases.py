"""Image files as users have them, including cases that once failed."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cxr.data.images import files
from cxr.data.images.find import find
from cxr.errors import CxrError

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} does not exist")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bitmaps of a synthetic chest, and DICOM files of a real one."""
    folder = tmp_path_factory.mktemp("cases")
    for script, *arguments in (
        ("make_bitmaps.py", str(folder / "bitmaps")),
        ("make_dicom_real.py", str(folder / "dicom")),
        ("make_voi_empty.py", str(folder / "dicom/ref_window.dcm"),
         str(folder / "dicom/voi_lut_empty_item.dcm")),
    ):  # fmt: skip
        command = [sys.executable, str(SHARED / "cases" / script), *arguments]
        subprocess.run(command, check=True, capture_output=True, env={"PYTHONPATH": ROOT / "src"})
    return folder


def grey_of(path: Path) -> np.ndarray:
    return files.read(path).grey.astype(int)


AS_REFERENCE = [
    "UPPER.PNG", "apng.png", "gamma.png", "la.png", "na\nme.png", "nan.png", "nosuffix", "p.png",
    "rgb.png", "tiff_named.png", "x.tif", "x.tiff", "x.bmp", "ünï cödé (1) [x].png", "-dash.png",
]  # fmt: skip


@pytest.mark.parametrize("name", AS_REFERENCE)
def test_a_lossless_bitmap_equals_the_reference(cases: Path, name: str) -> None:
    picture = files.read(cases / "bitmaps" / name)
    assert np.array_equal(picture.grey, grey_of(cases / "bitmaps/a_ref.png"))
    assert picture.notes.assumed == {} and picture.notes.warnings == []


@pytest.mark.parametrize(
    "name", ["l.jpg", "cmyk.jpg", "rgb_prog.jpg", "x.jfif", "x.webp", "webp_named.jpg",
             *(f"exif{i}.jpg" for i in range(1, 9))]
)  # fmt: skip
def test_a_lossy_bitmap_is_nearly_the_reference(cases: Path, name: str) -> None:
    reference = grey_of(cases / "bitmaps/a_ref.png")
    assert np.abs(grey_of(cases / "bitmaps" / name) - reference).mean() < 1.5


@pytest.mark.parametrize("bits", ["8bit", "10bit", "12bit", "12bit_hot_pixel", "12bit_narrow",
                                  "14bit", "15bit", "full"])  # fmt: skip
def test_16_bits_of_any_depth_give_the_same_image_with_a_warning(cases: Path, bits: str) -> None:
    picture = files.read(cases / f"bitmaps/i16_{bits}.png")
    assert "depth" in picture.notes.assumed and len(picture.notes.warnings) == 1
    of_14_bits = grey_of(cases / "bitmaps/i16_14bit.png")
    assert np.median(np.abs(picture.grey - of_14_bits)) <= 1
    reference = grey_of(cases / "bitmaps/a_ref.png")
    assert np.corrcoef(picture.grey.ravel(), reference.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("name", "topic"), [("rgba_white_transparent.png", "alpha"),
                                             ("la_white_transparent_border.png", "alpha"),
                                             ("onebit.png", "depth")])  # fmt: skip
def test_an_unusual_bitmap_is_read_with_a_warning(cases: Path, name: str, topic: str) -> None:
    picture = files.read(cases / "bitmaps" / name)
    assert topic in picture.notes.assumed and len(picture.notes.warnings) == 1


@pytest.mark.parametrize("name", ["trunc.png", "trunc.jpg", "trunc_end.jpg", "empty.png", "x.gif",
                                  "html.png", "jp2_named.jpg", "png_named.dcm"])  # fmt: skip
def test_an_invalid_bitmap_is_refused_by_name(cases: Path, name: str) -> None:
    with pytest.raises(CxrError, match=name):
        files.read(cases / "bitmaps" / name)


def test_a_folder_gives_its_images_without_hidden_files(cases: Path) -> None:
    names = {path.name for path in find([str(cases / "bitmaps")]).paths}
    assert "._a_ref.png" not in names and {"a_ref.png", "x.tif", "x.webp"} <= names


THROUGH_THE_WINDOW = [
    "IM-0001-0001", "burst.dcm", "frames_0.dcm", "frames_1.dcm", "high_bit_15.dcm", "implicit.dcm",
    "inverse_shape_mono1.dcm", "long_ds_string.dcm", "long_pixeldata.dcm", "modality_lower.dcm",
    "mono1_window.dcm", "no_bitsstored.dcm", "no_highbit.dcm", "no_meta_dataset_only.dcm",
    "no_modality.dcm", "no_pixelrepresentation.dcm", "no_preamble.dcm", "no_samplesperpixel.dcm",
    "no_transfer_syntax.dcm", "overlay_high_bits.dcm", "rescale_both_empty.dcm",
    "rescale_intercept_empty.dcm", "rescale_negative.dcm", "rescale_slope_empty.dcm",
    "rescale_slope_only.dcm", "signed.dcm", "voi_lut.dcm", "voi_lut_empty_item.dcm",
    "voi_lut_empty_seq.dcm", "windows_several.dcm",
]  # fmt: skip


@pytest.mark.parametrize("name", THROUGH_THE_WINDOW)
def test_a_dicom_file_is_shown_through_its_window(cases: Path, name: str) -> None:
    reference = grey_of(cases / "dicom/ref_window.dcm")
    assert np.abs(grey_of(cases / "dicom" / name) - reference).max() <= 1


@pytest.mark.parametrize("name", ["window_width_0.dcm", "window_off_range.dcm",
                                  "rescale_slope_zero.dcm"])  # fmt: skip
def test_a_window_without_contrast_is_ignored_with_a_warning(cases: Path, name: str) -> None:
    picture = files.read(cases / "dicom" / name)
    assert np.array_equal(picture.grey, grey_of(cases / "dicom/ref_nowindow.dcm"))
    assert len(picture.notes.warnings) == 1


@pytest.mark.parametrize("name", ["padding_low.dcm", "padding_high.dcm", "padding_mono1_0.dcm",
                                  "padding_65535_of_16.dcm"])  # fmt: skip
def test_padding_does_not_change_the_rest_of_a_film(cases: Path, name: str) -> None:
    picture = files.read(cases / "dicom" / name)
    assert not picture.grey[:, :30].any() and not picture.grey[:, -30:].any()
    plain = grey_of(cases / "dicom/ref_nowindow.dcm")[:, 30:-30]
    inside = picture.grey[:, 30:-30]
    assert (
        np.corrcoef(inside.ravel(), plain.ravel())[0, 1] > 0.999
    )  # its range is computed over fewer pixels
    assert inside.min() == 0 and inside.max() == 255
    assert "padding" in picture.notes.assumed


NAMED_TAGS = {
    "no_photometric.dcm": "PhotometricInterpretation (0028,0004)",
    "zero_pixeldata.dcm": "PixelData (7FE0,0010)",
    "half_pixeldata.dcm": "PixelData (7FE0,0010)",
    "modality_OT.dcm": "Modality (0008,0060) OT",
}


@pytest.mark.parametrize("name", NAMED_TAGS)
def test_a_refused_dicom_file_names_the_tag(cases: Path, name: str) -> None:
    with pytest.raises(CxrError) as caught:
        files.read(cases / "dicom" / name)
    assert name in str(caught.value) and NAMED_TAGS[name] in str(caught.value)


def test_lossless_compressions_of_one_film_are_equal() -> None:
    jpeg, jpeg_ls = (
        grey_of(SHARED / f"cases/{name}.dcm")
        for name in ("JPEGLosslessProcess14_1", "JPEGLSLossless")
    )
    assert np.array_equal(jpeg, jpeg_ls)
    of_8_bits = grey_of(SHARED / "cases/JPEGLossless_8bit.dcm")
    assert np.corrcoef(jpeg.ravel(), of_8_bits.ravel())[0, 1] > 0.99


def manifest() -> list[tuple[str, str]]:
    path = SHARED / "data/dicom/manifest.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [(row["file"], row["must"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(("name", "must"), manifest())
def test_a_real_dicom_file_is_read_or_refused_as_expected(name: str, must: str) -> None:
    path = SHARED / "data/dicom" / name
    if must.startswith("refuse") and "warn" not in must:
        with pytest.raises(CxrError, match=name) as caught:
            files.read(path)
        assert "\n" not in str(caught.value)
        return
    picture = files.read(path)
    assert len(np.unique(picture.grey)) > 100
    expects_warning = "warn" in must or "not a chest" in must
    assert bool(picture.notes.warnings) == expects_warning

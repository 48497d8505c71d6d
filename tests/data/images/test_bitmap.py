"""Reading bitmaps as grey images: depth, transparency, colour and orientation."""

import contextlib
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from image_files import chunk, deep_png, gradient, saved
from PIL import Image

from cxr.data.images import files
from cxr.errors import CxrError

DEEP = np.rint(gradient(200, 200) / 249 * 3500).astype(np.uint16) + 300  # a 12-bit film


def stretched(values: np.ndarray) -> np.ndarray:
    """Scaled to 0..255 after clipping 0.1 % of the pixels at each end."""
    ordered = np.sort(values.ravel()).astype(float)
    n_cut = len(ordered) // 1000
    low, high = ordered[n_cut], ordered[-1 - n_cut]
    return ((values - low) / (high - low)).clip(0, 1) * 255


def test_a_grey_png_is_read_unchanged_without_assumptions(tmp_path: Path) -> None:
    picture = files.read(saved(tmp_path / "a.png", Image.fromarray(gradient())))
    assert np.array_equal(picture.grey, gradient())
    assert picture.notes.warnings == [] and picture.notes.assumed == {}


@pytest.mark.parametrize("name", ["a.tif", "a.tiff", "a.bmp", "a.webp", "tiff_named.png"])
def test_a_lossless_format_is_read_unchanged(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name == "a.webp" else {}
    kind = {"format": "TIFF"} if name.startswith("tiff") else {}
    path = saved(tmp_path / name, Image.fromarray(gradient()), **options, **kind)
    picture = files.read(path)
    assert np.array_equal(picture.grey, gradient()) and picture.notes.assumed == {}


def test_a_jpeg_is_read_nearly_unchanged(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.JPG", Image.fromarray(gradient()), quality=95)
    assert np.abs(files.read(path).grey.astype(int) - gradient()).max() <= 4


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("factor", [1, 4, 17])
def test_16_bits_of_unknown_depth_are_scaled_with_a_warning(
    tmp_path: Path, suffix: str, factor: int
) -> None:
    deep = (DEEP * factor).astype(np.uint16)
    picture = files.read(saved(tmp_path / f"a{suffix}", Image.fromarray(deep)))
    assert np.abs(picture.grey - stretched(deep)).max() <= 1
    (warning,) = picture.notes.warnings
    assert "does not state which value is white" in warning
    assert picture.notes.assumed == {"depth": warning}


def test_a_maximum_of_4095_or_4096_gives_the_same_image(tmp_path: Path) -> None:
    below, above = DEEP.copy(), DEEP.copy()
    below[-1, -1], above[-1, -1] = 4095, 4096
    first, second = (
        files.read(saved(tmp_path / f"{i}.png", Image.fromarray(values))).grey.astype(int)
        for i, values in enumerate((below, above))
    )
    assert np.abs(first - second).max() <= 1


def test_a_hot_pixel_does_not_darken_the_film(tmp_path: Path) -> None:
    hot = DEEP.copy()
    hot[0, 7] = 65535
    plain = files.read(saved(tmp_path / "a.png", Image.fromarray(DEEP))).grey.astype(int)
    grey = files.read(saved(tmp_path / "b.png", Image.fromarray(hot))).grey
    assert grey[0, 7] == 255
    grey[0, 7] = plain[0, 7]
    assert np.abs(grey - plain).max() <= 1


SCALED = {
    "unscaled": lambda v: v,
    "shifted": lambda v: v << 4,
    "repeated": lambda v: (v << 4) | (v >> 8),
    "multiplied": lambda v: np.rint(v * (65535 / 4095)),
}


@pytest.mark.parametrize("how", SCALED)
def test_the_depth_stated_in_a_png_is_used(tmp_path: Path, how: str) -> None:
    stored = SCALED[how](DEEP.astype(np.int64)).astype(np.uint16)
    picture = files.read(deep_png(tmp_path / "a.png", stored, chunk(b"sBIT", b"\x0c")))
    assert np.abs(picture.grey - DEEP / 4095 * 255).max() <= 1
    assert picture.notes.warnings == []
    assert picture.notes.assumed["depth"].startswith("white is ")


@pytest.mark.parametrize("bits", [8, 11, 12])
def test_a_stated_depth_that_values_exceed_is_ignored(tmp_path: Path, bits: int) -> None:
    beyond = DEEP * 3
    picture = files.read(deep_png(tmp_path / "a.png", beyond, chunk(b"sBIT", bytes([bits]))))
    assert np.abs(picture.grey - stretched(beyond)).max() <= 1
    assert "does not state which value is white" in picture.notes.warnings[0]


def test_8_bits_in_the_upper_bits_of_12_are_not_taken_for_scaled_values(tmp_path: Path) -> None:
    """Their lower bits are zeros as well."""
    shifted = gradient(200, 200).astype(np.uint16) << 4
    png = files.read(deep_png(tmp_path / "a.png", shifted, chunk(b"sBIT", b"\x0c")))
    of_tiff = files.read(tiff(tmp_path / "a.tif", shifted, 12, photometric=1))
    for picture in (png, of_tiff):
        assert np.abs(picture.grey - shifted / 4095 * 255).max() <= 0.5
        assert picture.notes.warnings == []


def tiff(path: Path, values: np.ndarray, bits: int, photometric: int) -> Path:
    """A TIFF written by hand: one strip of unsigned values, of 16 bits or packed to 12."""
    height, width = values.shape
    if bits == 12:
        pairs = values.astype(np.uint32).reshape(-1, 2)
        packed = (pairs[:, 0] << 12) | pairs[:, 1]
        data = b"".join(int(each).to_bytes(3, "big") for each in packed)
    else:
        data = values.astype("<u2").tobytes()
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
            (273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(data))]  # fmt: skip
    directory = struct.pack("<H", len(tags))
    directory += b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<H2x" if kind == 3 else "<I", value)
        for tag, kind, value in tags
    )
    start = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(start + data + directory + bytes(4))
    return path


def test_the_depth_stated_in_a_tiff_is_used(tmp_path: Path) -> None:
    picture = files.read(tiff(tmp_path / "a.tif", DEEP, 12, photometric=1))
    assert np.abs(picture.grey - DEEP / 4095 * 255).max() <= 0.5
    assert picture.notes.warnings == []


def test_a_deep_tiff_whose_white_is_zero_is_inverted(tmp_path: Path) -> None:
    """Pillow itself inverts such files of 8 bits, but not of 16."""
    plain = files.read(tiff(tmp_path / "a.tif", DEEP, 16, photometric=1)).grey.astype(int)
    picture = files.read(tiff(tmp_path / "b.tif", 4095 - DEEP, 16, photometric=0))
    assert np.abs(picture.grey - plain).max() <= 1
    assert picture.notes.assumed["inverted"] == "TIFF WhiteIsZero"


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_are_drawn_on_black_with_a_warning(tmp_path: Path, mode: str) -> None:
    grey = gradient()
    grey[:, :10] = 255
    image = Image.fromarray(grey).convert("LA")
    pixels = np.array(image)
    pixels[:, :10, 1] = 0
    image = Image.fromarray(pixels)
    if mode == "P":
        path = saved(tmp_path / "a.png", Image.fromarray(grey).convert("P"), transparency=255)
    else:
        path = saved(tmp_path / "a.png", image.convert(mode))
    expected = grey.copy()
    expected[:, :10] = 0
    picture = files.read(path)
    assert np.array_equal(picture.grey, expected)
    (warning,) = picture.notes.warnings
    assert warning == "has transparent pixels (25.0%), which were drawn on black"
    assert picture.notes.assumed == {"alpha": warning}


def test_half_transparent_pixels_are_blended_with_black(tmp_path: Path) -> None:
    image = Image.merge("LA", [Image.fromarray(gradient()), Image.new("L", (40, 60), 128)])
    picture = files.read(saved(tmp_path / "a.png", image))
    assert np.abs(picture.grey - gradient() * (128 / 255)).max() <= 0.51


def test_a_transparent_value_of_a_deep_png_is_excluded_from_its_range(tmp_path: Path) -> None:
    bordered = DEEP.copy()
    bordered[:, :20] = 65535
    path = deep_png(tmp_path / "a.png", bordered, chunk(b"tRNS", b"\xff\xff"))
    picture = files.read(path)
    assert not picture.grey[:, :20].any()
    assert np.abs(picture.grey[:, 20:] - stretched(DEEP[:, 20:])).max() <= 1
    assert set(picture.notes.assumed) == {"alpha", "depth"}


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    grey = Image.fromarray(gradient())
    for mode in ("RGB", "RGBA", "LA"):
        picture = files.read(saved(tmp_path / "a.png", grey.convert(mode)))
        assert np.array_equal(picture.grey, gradient()) and picture.notes.assumed == {}


def test_a_colour_image_gives_a_warning(tmp_path: Path) -> None:
    colours = np.stack([gradient(), gradient()[::-1], gradient()[:, ::-1]], axis=2)
    picture = files.read(saved(tmp_path / "cat.png", Image.fromarray(colours)))
    assert picture.notes.warnings == ["is in colour; chest X-rays are grey"]
    assert np.array_equal(picture.grey, np.asarray(Image.fromarray(colours).convert("L")))


def test_an_image_of_two_grey_values_gives_a_warning(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(gradient() > 110))
    picture = files.read(path)
    assert picture.notes.warnings == ["has only 2 grey values; radiographs have many more"]


def test_an_image_is_rotated_by_its_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # the right side is up
    path = saved(tmp_path / "a.png", Image.fromarray(gradient()), exif=exif)
    assert np.array_equal(files.read(path).grey, np.rot90(gradient(), -1))


def test_the_first_frame_of_an_animated_png_is_read(tmp_path: Path) -> None:
    image = Image.fromarray(gradient())
    more = [Image.new("L", image.size, 255)]
    path = saved(tmp_path / "a.png", image, save_all=True, append_images=more)
    assert np.array_equal(files.read(path).grey, gradient())


def test_the_main_image_of_a_phones_jpeg_is_read(tmp_path: Path) -> None:
    image = Image.fromarray(gradient())
    path = saved(tmp_path / "a.jpg", image, format="MPO", save_all=True, append_images=[image])
    assert np.abs(files.read(path).grey.astype(int) - gradient()).max() <= 8


def test_a_tiff_of_many_pages_is_refused_quickly(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", DEEP, 16, photometric=1)
    content = bytearray(path.read_bytes())
    directory = content[len(content) - 4 - 2 - 9 * 12 : len(content) - 4]
    for _ in range(20_000):  # each points to the next one
        content[-4:] = struct.pack("<I", len(content))
        content += directory + bytes(4)
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(CxrError, match="contains several images"):
        files.read(path)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("pointer", [1, 7, 2**31, 2**32 - 1])
def test_a_tiff_with_an_invalid_page_pointer_prints_nothing(
    tmp_path: Path, pointer: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiff(tmp_path / "a.tif", DEEP, 16, photometric=1)
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<I", pointer))
    with contextlib.suppress(CxrError):
        files.read(path)
    assert capfd.readouterr().err == ""


def test_a_tiff_of_signed_bytes_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(gradient())
    path = saved(tmp_path / "a.tif", image, tiffinfo={339: 2})
    with pytest.raises(CxrError, match="has signed 8-bit values; save it with unsigned values"):
        files.read(path)


def test_a_tiff_of_several_pages_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(gradient())
    path = saved(tmp_path / "a.tif", image, save_all=True, append_images=[image, image])
    with pytest.raises(
        CxrError, match=r"a\.tif contains several images; save each as a separate file"
    ):
        files.read(path)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bits_per_channel_are_refused(tmp_path: Path, channels: int) -> None:
    """Pillow would keep only the upper 8 bits: 16 grey levels of a 12-bit film."""
    path = deep_png(tmp_path / "a.png", np.stack([DEEP] * channels, axis=2))
    with pytest.raises(CxrError, match=r"a\.png has 16 bits per channel"):
        files.read(path)

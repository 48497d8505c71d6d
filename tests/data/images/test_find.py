"""Finding the files that a command's arguments name, and those skipped in folders."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from image_files import dicom, gradient, saved
from PIL import Image

from cxr.data.images.find import find
from cxr.errors import CxrError

GREY = Image.fromarray(gradient())


def disc(folder: Path) -> Path:
    """A disc as burnt by a hospital and copied by a Mac."""
    study = folder / "DICOM/ST000000/SE000000"
    study.mkdir(parents=True)
    dicom(study / "IM000000", gradient())
    (study / "IM000001").write_bytes((study / "IM000000").read_bytes()[132:])  # no preamble
    dicom(folder / "DICOMDIR", gradient())
    saved(folder / "b.png", GREY)
    saved(folder / "photo", GREY, format="JPEG")
    for suffix in ("tif", "bmp", "webp"):
        saved(folder / f"more.{suffix}", GREY)
    (folder / "README.TXT").write_text("a disc")
    (folder / "._b.png").write_bytes(b"\0\5\x16\7")
    (folder / ".Trash").mkdir()
    saved(folder / ".Trash/old.png", GREY)
    (folder / "broken.dcm").write_bytes(b"")
    return folder


def test_a_folder_is_searched_recursively_by_content(tmp_path: Path) -> None:
    found = find([str(disc(tmp_path))])
    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == [
        "b.png", "broken.dcm", "more.bmp", "more.tif", "more.webp", "photo",
        "DICOM/ST000000/SE000000/IM000000", "DICOM/ST000000/SE000000/IM000001",
    ]  # fmt: skip
    assert str(found) == (
        "found 1 BMP, 2 DICOM, 1 JPEG, 1 PNG, 1 TIFF, 1 WEBP and 1 unknown, "
        "skipped 1 DICOMDIR, 1 hidden and 1 other"
    )


def test_files_matched_several_times_are_found_once(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPEG", "c.txt", "d.dcm"):
        (tmp_path / name).touch()
    found = find([str(tmp_path), str(tmp_path / "*.png"), str(tmp_path / "c.txt")])
    assert [path.name for path in found.paths] == ["a.JPEG", "b.png", "d.dcm", "c.txt"]


def test_a_file_given_by_name_is_never_skipped(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    found = find([str(tmp_path / ".hidden")])
    assert found.paths == [tmp_path / ".hidden"] and not found.taken and not found.skipped


def test_files_that_only_start_like_an_image_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "sound").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    (tmp_path / "numbers").write_bytes(np.arange(8, 400, dtype="<u2").tobytes())
    saved(tmp_path / "a.png", GREY)
    assert [path.name for path in find([str(tmp_path)]).paths] == ["a.png"]


def test_a_pipe_in_a_folder_is_skipped_without_waiting_for_a_writer(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", GREY)
    os.mkfifo(tmp_path / "pipe")
    signal.alarm(10)  # ends the test if it waits
    try:
        found = find([str(tmp_path)])
    finally:
        signal.alarm(0)
    assert str(found) == "found 1 PNG, skipped 1 other"


def test_an_empty_folder_and_an_unmatched_pattern_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CxrError, match=r"contains no images; supported are \.png"):
        find([str(tmp_path)])
    with pytest.raises(CxrError, match=r"no file matches .*\*\.png"):
        find([str(tmp_path / "*.png")])

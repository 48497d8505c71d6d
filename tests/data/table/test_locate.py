"""Image files that a table names."""

from pathlib import Path

import pytest

from cxr.data.columns import InvalidTable
from cxr.data.table.files import image_folders, locate

NAMED = {  # name, its file, another file
    "as written": ("a.png", "one/a.png", "one/b.png"),
    "without the type": ("a", "one/a.png", "one/b.png"),
    "another type": ("a.dcm", "one/a.png", "one/b.dcm"),
    "in a folder": ("one/a.png", "one/a.png", "two/a.png"),
    "deep, without the type": ("p1/s1/view1", "deep/p1/s1/view1.jpg", "deep/p2/s1/view1.jpg"),
    "from Windows": (r"one\a.png", "one/a.png", "two/a.png"),
    "from here": ("./one/a.png", "one/a.png", "two/a.png"),
    "without a suffix": ("IM000001", "disc/IM000001", "disc/IM000002"),
    "dots in the name": ("1.2.840.1", "1.2.840.1.dcm", "1.2.840.10.dcm"),
    "from a folder above": ("../one/a.png", "one/a.png", "two/a.png"),
    "the exact name first": ("IM1", "one/IM1", "one/IM1.jpg"),
    "decomposed by macOS": ("R\u00f6ntgen.png", "Ro\u0308ntgen.png", "b.png"),
    "the exact type first": ("a.png", "one/a.png", "two/a.jpg"),
}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("case", NAMED)
def test_a_file_is_found(tmp_path: Path, case: str) -> None:
    name, right, other = NAMED[case]
    touch(tmp_path, right, other)
    assert locate([name], [tmp_path]) == [str(tmp_path / right)]


def test_missing_files_are_none_and_the_order_is_kept(tmp_path: Path) -> None:
    touch(tmp_path, "x/b.png", "a.png")
    found = locate(["b", "c", "a"], [tmp_path])
    assert found == [str(tmp_path / "x/b.png"), None, str(tmp_path / "a.png")]


def test_hidden_files_are_not_images(tmp_path: Path) -> None:
    touch(tmp_path, "._a.png", ".cache/a.png", "a.png")
    assert locate(["a.png"], [tmp_path]) == [str(tmp_path / "a.png")]


def test_overlapping_folders_give_a_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png")
    assert locate(["a"], [tmp_path, tmp_path / "x"]) == [str(tmp_path / "x/a.png")]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "y/a.png")
    with pytest.raises(InvalidTable, match=r"'a\.png' could be .*x/a\.png or .*y/a\.png; add the"):
        locate(["a.png"], [tmp_path])


@pytest.mark.parametrize("names", [("0.png", "x/0.png"), (r"x\0.png", "./x/0.png"), ("0", "0.dcm")])
def test_two_names_of_one_file_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, "x/0.png")
    with pytest.raises(InvalidTable, match=r"' are both .*x/0\.png; keep one row per image"):
        locate(names, [tmp_path])


@pytest.mark.parametrize("name", ["none", "file", "~nosuchuser/x", "x" * 300])
def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "file", "scans/a.png")
    assert image_folders(["scans", str(tmp_path)], tmp_path) == [tmp_path / "scans", tmp_path]
    with pytest.raises(InvalidTable, match=f"{name} is not a folder; relative paths start at"):
        image_folders(["scans", name], tmp_path)

"""Rows of a table that belong to images, by ids that are written in different ways."""

import itertools

import numpy as np
import pytest

from cxr.data.ids import rows_of


def rows(table: list[str], images: list[str]) -> list[int]:
    found = rows_of(np.array(table), np.array(images))
    assert found.dtype == np.int64
    return [int(row) for row in found]


def test_images_may_repeat_and_come_in_any_order() -> None:
    table = ["c", "a", "b"]
    for images in itertools.product(["a", "b", "c", "d"], repeat=3):
        expected = [table.index(each) if each in table else -1 for each in images]
        assert rows(table, list(images)) == expected


def test_an_image_without_a_row_has_minus_1() -> None:
    assert rows(["a", "b"], ["b", "z", "b", "y"]) == [1, -1, 1, -1]
    assert rows(["a"], ["x", "y"]) == [-1, -1]
    assert rows([], ["x"]) == [-1]


@pytest.mark.parametrize(
    ("in_table", "of_image"),
    [
        ("a_0.png", "a_0"),
        ("a_0", "a_0.png"),
        ("a_0.PNG", "a_0.dcm"),
        ("folder/a_0.png", "a_0"),
        ("a_0", "C:\\x\\a_0.nii.gz"),
        ("x/y/a_0.png", "y/a_0.jpg"),
        ("https://host/y/a_0.png?size=1", "y/a_0"),
    ],
)
def test_suffixes_do_not_count_and_folders_must_agree_where_both_have_them(
    in_table: str, of_image: str
) -> None:
    assert rows(["z", in_table], [of_image, "q", of_image]) == [1, -1, 1]


@pytest.mark.parametrize(
    ("in_table", "of_image"),
    [
        ("x/a_0.png", "y/a_0.png"),
        ("x/y/a_0", "y/x/a_0"),
        ("x/y/a_0", "z/y/a_0"),
        ("x/a_0", "ax/a_0"),
        ("x\\a_0", "y/a_0"),
    ],
)
def test_a_file_of_another_folder_is_another_image(in_table: str, of_image: str) -> None:
    assert rows([in_table, "b"], [of_image, "b"]) == [-1, 1]


def test_ids_as_written_count_more_than_names_that_are_not_unique() -> None:
    table = ["x/a.png", "y/a.png", "b.png"]
    assert rows(table, ["y/a.png", "x/a.png", "b.png", "b"]) == [1, 0, 2, -1]


def test_numbers_match_without_leading_zeros_if_all_ids_do() -> None:
    assert rows(["007", "012"], ["12", "7", "12"]) == [1, 0, 1]
    assert rows(["007", "012"], ["12", "7", "8"]) == [-1, -1, -1]


def test_ids_of_images_may_be_numbers() -> None:
    assert rows_of(np.array(["3", "1"]), np.array([1, 2, 3, 1])).tolist() == [1, -1, 0, 1]

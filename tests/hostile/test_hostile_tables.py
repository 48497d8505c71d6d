"""Malicious tables of predictions and boxes."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from valid import refusal

from cxr.data import boxes, sheet
from cxr.data.splits import Split
from cxr.labels import CHESTMNIST
from cxr.params import Boxes
from cxr.scoring.submissions import read_labels, read_predictions

HEADER = "id," + ",".join(CHESTMNIST)
ROW = "x" + ",0.5" * 14
ESCAPE = "\x1b[2J"

CSVS: dict[str, tuple[bytes, str]] = {
    "Latin-1": (f"{HEADER}\n\xe9{ROW}\n".encode("latin-1"), "line 2 is not valid UTF-8"),
    "half of UTF-16": (f"{HEADER}\n{ROW}\n".encode("utf-16")[:-1], "is not valid UTF-16"),
    "half a character": (f"{HEADER}\n{ROW}\n".encode() + b"\xc3", "line 3 is not valid UTF-8"),
    "a number with a byte of nothing": (f"{HEADER}\n{ROW[:-3]}0.5\0\n".encode(), r"'0.5\x00'"),
    "only bytes of nothing": (bytes(1000), "bytes"),
    "a cell of a megabyte": (f"{HEADER}\n{'x' * 2**20}{ROW}\n".encode(), "131,072 characters"),
    "an id of 600 characters": (
        f"{HEADER}\n{'x' * 600}{ROW}\n".encode(),
        "'id' has 601 characters; ids may have at most 512"),
    "a thousand columns": (
        f"{HEADER}{',a' * 1000}\n".encode(), "has 1,015 columns; the maximum is 300"),
    "half a quotation": (f'{HEADER}\n"{ROW}\n'.encode(), "cells"),
    "a cell that commands a terminal": (
        f"{HEADER}\n{ROW[:-3]}{ESCAPE}\n".encode(), r"is '\x1b[2J'; expected a number"),
    "a column that commands a terminal": (
        f"{ESCAPE},id\nx,y\n".encode(), r"its columns are '\x1b[2J', 'id'"),
    "a number of no end": (f"{HEADER}\n{ROW[:-3]}1e999\n".encode(), "is inf"),
    "a number of a megabyte": (
        f"{HEADER}\n{ROW[:-3]}{'9' * 100_000}\n".encode(), "is inf"),
    "a list of no end": (
        f"id,predicted\nx,{'[' * 100_000}\n".encode(), "every cell of 'predicted' must hold"),
    "a number of a label beyond all": (
        b"id,predicted\nx,0.5 1e999\n", "every cell of 'predicted' must hold"),
    "a hundred comments": (b"#\n" * 100, "is empty"),
    "half a quotation in a comment": (b'# "\n' + f"{HEADER}\n".encode(), "has no rows"),
    "a delimiter that is a quotation": (f'sep="\n{HEADER}\n{ROW}\n'.encode(), "theirs.csv"),
    "minus infinity": (f"{HEADER}\n{ROW[:-3]}-inf\n".encode(), "is -inf"),
    "row numbers of no end": (f"1e999{',0.5' * 14}\n".encode(), "must be 0, 1, 2"),
    "row numbers of NaN": (f"nan{',0.5' * 14}\n".encode(), "must be 0, 1, 2"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), CSVS.values(), ids=CSVS)
def test_malicious_predictions_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_bytes(content)
    message = refusal(read_predictions, path, "test", False)
    assert (words in message or words == "bytes") and "theirs.csv" in message


def test_utf_16_is_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_bytes(f"{HEADER}\n{ROW}\n".encode("utf-16"))
    assert read_predictions(path, "test", False).values.tolist() == [[0.5] * 14]


def test_a_table_has_a_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(f"{HEADER}\n{ROW}\n")
    assert len(read_predictions(path, "test", False).values) == 1
    monkeypatch.setattr(sheet, "MOST_BYTES", path.stat().st_size - 1)
    assert "it has more than" in refusal(read_predictions, path, "test", False)


def test_an_endless_table_is_read_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "MOST_BYTES", 2**20)
    assert "more than 1,048,576" in refusal(read_predictions, Path("/dev/zero"), "test", False)


def test_a_pipe_is_read(tmp_path: Path) -> None:
    """`cxr score <(zcat theirs.csv.gz)` works."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=[f"{HEADER}\n{ROW}\n"])
    writer.start()
    assert len(read_predictions(path, "test", False).values) == 1
    writer.join()


ARRAYS: dict[str, np.ndarray] = {
    "records": np.zeros(3, [("a", "f4", 14)]),
    "complex": np.zeros((3, 14), complex),
    "dates": np.zeros((3, 14), "datetime64[D]"),
    "texts": np.full((3, 14), "0.5"),
    "bytes": np.full((3, 14), b"0.5"),
    "one dimension": np.zeros(14),
    "four dimensions": np.zeros((1, 1, 3, 14)),
    "no columns": np.zeros((3, 0)),
    "infinite": np.full((3, 14), np.inf),
    "beyond float64": np.full((3, 14), np.finfo(np.longdouble).max),
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_invalid_arrays_of_predictions_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "theirs.npz", test_logits=array)
    assert "theirs.npz" in refusal(read_predictions, tmp_path / "theirs.npz", "test", False)
    np.savez(tmp_path / "labels.npz", test_labels=array)
    assert "labels.npz" in refusal(read_labels, tmp_path / "labels.npz", "test")


NPYS: dict[str, bytes] = {
    "nothing": b"",
    "a pickle": b"\x80\x04N.",
    "a header alone": b"\x93NUMPY\x01\x00",
    "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
}


@pytest.mark.parametrize("content", NPYS.values(), ids=NPYS)
def test_invalid_npy_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "theirs.npy"
    path.write_bytes(content)
    assert "theirs.npy" in refusal(read_predictions, path, "test", False)


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.filterwarnings("ignore:overflow")
def test_invalid_arrays_in_npy_files_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "theirs.npy"
    np.save(path, array)
    assert "theirs.npy" in refusal(read_predictions, path, "test", True)
    np.save(path, np.zeros((10**6, 14), np.uint8))
    path.write_bytes(path.read_bytes()[:1000])
    assert "theirs.npy" in refusal(read_predictions, path, "test", True)


IDS: dict[str, np.ndarray] = {
    "bytes of no text": np.array([b"\xff", b"\xfe"]),
    "long bytes": np.array([b"x" * 600] * 2),
    "long": np.array(["x" * 600] * 2),
    "records": np.zeros(2, [("a", "i4")]),
    "truths": np.array([True, False]),
    "floats": np.array([0.5, 1.5]),
    "pairs": np.array([["a", "b"], ["c", "d"]]),
    "three of two": np.array(["a", "b", "c"]),
}


@pytest.mark.parametrize("key", ["test_ids", "patients"])
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_invalid_ids_are_refused(tmp_path: Path, ids: np.ndarray, key: str) -> None:
    np.savez(tmp_path / "theirs.npz", test_logits=np.zeros((2, 14)), **{key: ids})
    assert key in refusal(read_predictions, tmp_path / "theirs.npz", "test", False)


BOX = "image_id,label,x,y,width,height\n"
BOXES: dict[str, tuple[bytes, str]] = {
    "Latin-1": (f"{BOX}\xe9,Mass,1,2,3,4\n".encode("latin-1"), "is not valid UTF-8"),
    "a cell of a megabyte": (f"{BOX}{'x' * 2**20},Mass,1,2,3,4\n".encode(), "line 2 has a cell of"),
    "an infinite number": (f"{BOX}a,Mass,1e999,2,3,4\n".encode(), "is not a box"),
    "an infinite size": (f"{BOX}a,Mass,1,2,inf,4\n".encode(), "is not a box"),
    "a negative size": (f"{BOX}a,Mass,1,2,-3,4\n".encode(), "is not a box"),
    "a label with an escape sequence": (
        f"{BOX}a,{ESCAPE},1,2,3,4\n".encode(),
        r"'\x1b[2J' is not a label of the data",
    ),
    "a NUL byte": (f"{BOX}a,Mass,1\0,2,3,4\n".encode(), "expected four numbers"),
}


@pytest.mark.parametrize(("content", "words"), BOXES.values(), ids=BOXES)
def test_invalid_boxes_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_bytes(content)
    split = Split(np.zeros((1, 9, 9)), np.zeros((1, 14)), CHESTMNIST, np.array(["a"]), None)
    settings = {"someone": Boxes(path=str(path))}
    assert words in refusal(boxes.read, settings, {"someone": path}, {"train": split})

"""Chunked reading equals numpy's, and an invalid archive is refused and never unpickled."""

import hashlib
import io
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr.data import npz
from cxr.data.npz import NpyWriter, NpzReader, write_npz_member
from cxr.errors import CxrError

Save = Callable[..., None]
SAVES = [np.savez, np.savez_compressed]

RNG = np.random.default_rng(0)
ARRAYS = {
    "images": RNG.integers(0, 256, (37, 9, 9)).astype(np.uint8),
    "labels": RNG.integers(0, 2, (37, 14)),
    "floats": RNG.normal(size=(11, 3)).astype(np.float32),
    "big_endian": np.arange(20).astype(">u2"),
    "bools": RNG.random((5, 2, 3)) > 0.5,
    "ids": np.array(["00000001_000.png", "2", "Ünïcode"]),
    "no_rows": np.zeros((0, 28, 28), np.uint8),
    "no_columns": np.zeros((6, 0), np.int16),
}


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 83000000\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chest.npz"


def write_member(path: Path, content: bytes, key: str = "x") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{key}.npy", content)


def npy(shape: Any, body: bytes, descr: Any = "|u1", fortran_order: bool = False) -> bytes:
    """A .npy file with the given values in its header."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": fortran_order, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + body


def refusal(path: Path, key: str = "x") -> str:
    with pytest.raises(CxrError) as caught, NpzReader(path) as reader:
        reader.read(key)
    text = str(caught.value)
    assert str(path) in text and len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("chunk_bytes", [1, 81, 7 * 81, 37 * 81, 2**24])
def test_reading_in_chunks_equals_numpys_load(
    path: Path, monkeypatch: pytest.MonkeyPatch, save: Save, chunk_bytes: int
) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", chunk_bytes)
    save(path, **ARRAYS)
    theirs = np.load(path)
    with NpzReader(path) as reader:
        assert reader.keys == set(theirs.files)
        for key in theirs.files:
            assert reader.header(key) == (theirs[key].shape, theirs[key].dtype)
            ours = reader.read(key)
            np.testing.assert_array_equal(ours, theirs[key])
            assert ours.dtype == theirs[key].dtype.newbyteorder("=")


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("key", ["images", "labels", "floats", "big_endian", "ids", "no_rows"])
@pytest.mark.parametrize("chunk_bytes", [1, 7 * 81, 2**24])
def test_an_array_in_fortran_order_is_read_as_numpy_reads_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, save: Save, key: str, chunk_bytes: int
) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # the default folder may be in memory
    array = np.asfortranarray(ARRAYS[key])
    save(path, x=array)
    with NpzReader(path, path.parent) as reader:
        ours = reader.read("x")
        np.testing.assert_array_equal(ours, ARRAYS[key])
        assert ours.dtype == array.dtype.newbyteorder("=")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("save", SAVES)
def test_memory_does_not_grow_with_an_array_in_fortran_order(
    path: Path, monkeypatch: pytest.MonkeyPatch, save: Save
) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", 2**16)
    save(path, x=np.asfortranarray(RNG.integers(0, 256, (20_000, 20, 20), dtype=np.uint8)))
    tracemalloc.start()
    with NpzReader(path, path.parent) as reader:
        total = sum(int(rows.sum()) for rows in reader.chunks("x"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == np.load(path)["x"].sum() and peak < 2**20  # of 8 MB


def test_a_damaged_array_in_fortran_order_is_refused(path: Path) -> None:
    np.savez(path, x=np.asfortranarray(ARRAYS["images"]))
    whole = bytearray(path.read_bytes())
    whole[600] ^= 1
    path.write_bytes(whole)
    assert refusal(path) == f"{path} is damaged; get a new copy of the file"
    write_member(path, npy((3, 4), bytes(8), fortran_order=True))
    assert "`x` has 8 bytes, but its header states 12" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "is a Git LFS pointer, not the file; run `git lfs pull`"),
        (
            npy((2,), bytes(2)),
            "is a single array (.npy); save all arrays to one npz file with np.savez",
        ),
        (b"", "is not an npz file or is truncated; get a new copy of the file"),
        (b"<html>login</html>", "is not an npz file or is truncated; get a new copy of the file"),
    ],
    ids=["pointer", "npy", "empty", "html"],
)
def test_a_file_of_another_format_is_refused_with_the_fix(
    path: Path, content: bytes, words: str
) -> None:
    path.write_bytes(content)
    assert refusal(path) == f"{path} {words}"


@pytest.mark.parametrize(
    ("chunk_bytes", "lengths"),
    [(1, [1] * 37), (80, [1] * 37), (7 * 81, [7] * 5 + [2]), (7 * 81 - 1, [6] * 6 + [1]),
     (37 * 81, [37]), (37 * 81 - 1, [36, 1])],
)  # fmt: skip
def test_a_chunk_has_as_many_whole_rows_as_fit(
    path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, lengths: list[int]
) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", chunk_bytes)
    np.savez(path, images=ARRAYS["images"])
    with NpzReader(path) as reader:
        assert [len(rows) for rows in reader.chunks("images")] == lengths


def test_a_header_of_version_2_is_read(path: Path) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, ARRAYS["labels"], version=(2, 0))
    write_member(path, file.getvalue())
    with NpzReader(path) as reader:
        np.testing.assert_array_equal(reader.read("x"), ARRAYS["labels"], strict=True)


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("dtype", [object, [("id", "i4"), ("value", object)]])
def test_pickled_objects_are_refused_and_never_loaded(
    path: Path, tmp_path: Path, dtype: Any
) -> None:
    marker = tmp_path / "executed"
    array = np.zeros(2, dtype)
    array[1] = Trap(marker) if dtype is object else (0, Trap(marker))
    np.savez(path, x=array)
    assert "`x` contains pickled Python objects, which are never loaded" in refusal(path)
    assert not marker.exists()
    _ = np.load(path, allow_pickle=True)["x"]
    assert marker.exists()  # the trap works


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy((), bytes(1)), "`x` is a single value; expected an array of rows"),
        (npy((3, 4), bytes(8)), "`x` has 8 bytes, but its header states 12"),
        (npy((2, 4), bytes(12)), "`x` has 12 bytes, but its header states 8"),
        (npy((2**40, 2**40), bytes(8)), f"`x` has shape ({2**40}, {2**40}); expected"),
        (npy((-2, -4), bytes(8)), "`x` has shape (-2, -4); expected 1 to 4 dimensions"),
        (npy((2,), bytes(2), descr="<u9"), "`x` is not a numpy array"),
        (npy("long", bytes(2)), "`x` is not a numpy array"),
        (npy((2,), bytes(2))[:9], "`x` is not a numpy array"),
        (npy((2,), bytes(2))[:40], "`x` is not a numpy array"),
        (b"\x93NUMPY\x09\x00" + npy((2,), bytes(2))[8:], "`x` is not a numpy array"),
        (b"not an array", "`x` is not a numpy array"),
        (b"", "`x` is not a numpy array"),
    ],
    ids=["scalar", "too few bytes", "too many bytes", "overflowing", "negative", "no dtype",
         "no shape", "cut in magic", "cut in header", "version 9", "text", "empty"],
)  # fmt: skip
def test_a_member_with_an_invalid_header_is_refused(path: Path, content: bytes, words: str) -> None:
    write_member(path, content)
    assert words in refusal(path)


def test_a_missing_key_is_named_with_the_existing_keys(path: Path) -> None:
    np.savez(path, b=np.zeros(2), a=np.zeros(2))
    assert refusal(path).endswith("has no `x`; it contains a, b")
    write_member(path, b"", key="other.txt")
    with zipfile.ZipFile(path, "w"):
        pass
    assert refusal(path).endswith("has no `x`; it contains no arrays")


def test_text_is_not_an_npz_file(path: Path) -> None:
    path.write_text("Dear sir, please find the images attached.")
    assert "is not an npz file" in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(path: Path) -> None:
    assert refusal(path).endswith("does not exist; check the path")
    path.mkdir()
    assert "is a folder" in refusal(path)


@pytest.mark.parametrize("save", SAVES)
def test_an_archive_truncated_anywhere_is_refused(path: Path, save: Save) -> None:
    save(path, x=np.arange(20, dtype=np.uint8))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert "truncated" in refusal(path)


@pytest.mark.parametrize("save", SAVES)
def test_a_flipped_bit_never_changes_a_value_undetected(
    path: Path, monkeypatch: pytest.MonkeyPatch, save: Save
) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", 16)  # the checksum is verified with the last chunk
    array = np.random.default_rng(1).integers(0, 256, (64, 4)).astype(np.uint8)
    save(path, x=array)
    whole = path.read_bytes()
    end = whole.index(b"PK\x01\x02")  # the archive's directory, after the values
    n_refused = 0
    for position in range(end - array.nbytes, end):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        try:
            with NpzReader(path) as reader:  # the last bits of a compressed member are unused
                np.testing.assert_array_equal(reader.read("x"), array)
        except CxrError as error:
            assert str(path) in str(error)
            n_refused += 1
    assert n_refused >= array.nbytes - (save is np.savez_compressed)


@pytest.mark.parametrize("save", SAVES)
def test_no_flipped_byte_causes_a_traceback(path: Path, save: Save) -> None:
    array = np.arange(6, dtype=np.uint8)
    save(path, x=array)
    whole = path.read_bytes()
    for position in range(len(whole)):
        for mask in (0x01, 0x80, 0xFF):
            flipped = bytearray(whole)
            flipped[position] ^= mask
            path.write_bytes(flipped)
            try:
                with NpzReader(path) as reader:
                    np.testing.assert_array_equal(reader.read("x"), array)
            except CxrError as error:
                assert str(path) in str(error)


def test_numpy_loads_the_written_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in ARRAYS.items():
            rows = iter(np.array_split(array, 3))
            write_npz_member(archive, key, array.shape, array.dtype, rows)
    theirs = np.load(path)
    assert list(theirs.files) == list(ARRAYS)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(theirs[key], array, strict=True)


def test_equal_rows_give_equal_bytes_for_any_chunk_size(tmp_path: Path) -> None:
    array = ARRAYS["images"]
    digests = set()
    for n_chunks in (1, 1, 5):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        with zipfile.ZipFile(path, "w") as archive:
            rows = iter(np.array_split(array, n_chunks))
            write_npz_member(archive, "x", array.shape, array.dtype, rows)
            assert archive.getinfo("x.npy").date_time == (
                1980,
                1,
                1,
                0,
                0,
                0,
            )  # not the current time
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_an_array_written_in_chunks_equals_numpys_file(tmp_path: Path) -> None:
    array = ARRAYS["floats"]
    np.save(tmp_path / "theirs.npy", array)
    with open(tmp_path / "ours.npy", "wb") as file:
        writer = NpyWriter(file, array.shape, array.dtype)
        writer.append(array[:4])
        writer.append(np.asfortranarray(array[4:]).astype(np.float64))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()

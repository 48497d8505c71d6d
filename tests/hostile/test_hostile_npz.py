"""Malicious npz files are refused in one line, with little memory and nothing written."""

import bz2
import lzma
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from valid import arrays, bounded, refusal

from cxr.data import npz, raw, splits
from cxr.data.npz import NpzReader, load_npy

Make = Callable[[Path], None]


def npy(
    header: str | bytes, body: bytes = b"", version: int = 1, length: int | None = None
) -> bytes:
    """A .npy file with the given header; `length` is the stated length of the header."""
    text = header.encode() if isinstance(header, str) else header
    kind = "<H" if version == 1 else "<I"
    stated = struct.pack(kind, len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + stated + text + body


def header(shape: Any, descr: Any = "|u1") -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}\n"


def member(content: bytes, method: int = zipfile.ZIP_STORED, name: str = "x.npy") -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(name, content)

    return make


def with_false_size(content: bytes, size: int, packed: int | None = None) -> Make:
    """A member for which the zip directory states a false size."""

    def make(path: Path) -> None:
        member(content, zipfile.ZIP_DEFLATED)(path)
        whole = bytearray(path.read_bytes())
        entry = whole.index(b"PK\x01\x02")
        if packed is not None:
            whole[entry + 20 : entry + 24] = struct.pack("<I", packed)
        whole[entry + 24 : entry + 28] = struct.pack("<I", size)
        path.write_bytes(whole)

    return make


def bomb(path: Path) -> None:
    """300 kB that decompress to the stated 300 MB."""
    n = 300 * 2**20
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as file,
    ):
        file.write(npy(header((n // 2**20, 2**20))))
        for _ in range(n // 2**20):
            file.write(bytes(2**20))


def encrypted(path: Path) -> None:
    member(npy(header((2,)), bytes(2)))(path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(whole)


def names(*listed: str) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in listed:
                archive.writestr(f"{name}.npy", b"")

    return make


def nested(depth: int) -> str:
    descr: Any = "|u1"
    for _ in range(depth):
        descr = [("f", descr)]
    return header((2,), descr)


BIG = npy(header((2**30,)))
COLUMNS = npy(header((1000, 1000)).replace("False", "True"))
BAD: dict[str, tuple[Make, str]] = {
    "4 GB of header": (member(npy(header((2,)), bytes(2), 2, 2**32 - 16)), "not a numpy array"),
    "4 GB of header, deflated": (
        member(npy(header((2,)), bytes(2), 2, 2**32 - 16), zipfile.ZIP_DEFLATED), "not a numpy"),
    "20 kB of header": (member(npy(header((2,)) + " " * 20_000, bytes(2), 2)), "not a numpy array"),
    "60 kB of header in version 1": (member(npy(header((2,)) + " " * 60_000)), "not a numpy array"),
    "version 3": (member(npy(header((2,)), bytes(2), 3)), "not a numpy array"),
    "a truncated length": (member(b"\x93NUMPY\x02\x00\x10\x00"), "not a numpy array"),
    "9,000 brackets": (member(npy("(" * 9000)), "not a numpy array"),
    "9,000 signs": (member(npy("-" * 9000 + "1")), "not a numpy array"),
    "an unterminated string": (member(npy("{'descr': '''")), "not a numpy array"),
    "an unknown key": (member(npy("{'descr': '|u1', 'x': 1}")), "not a numpy array"),
    "not a dictionary": (member(npy("[1, 2, 3]")), "not a numpy array"),
    "bytes that are not text": (member(npy(b"\xff\xfe\x00" * 40)), "not a numpy array"),
    "a number of 5000 digits": (member(npy(header(0).replace("0}", f"1{'0' * 5000}}}"))), "`x`"),
    "a nested dtype": (member(npy(nested(300), bytes(2))), "`x`"),
    "a subarray dtype": (member(npy(header((2,), ("|u1", (2**20,))), bytes(2**21))), "has dtype "),
    "records": (member(npy(header((2,), [("a", "<i4")]), bytes(8))), "numbers or strings"),
    "raw bytes": (member(npy(header((2,), "|V100000"), bytes(200_000))), "numbers or strings"),
    "long texts": (member(npy(header((1,), "<U1000000"), bytes(4_000_000))), "512 characters"),
    "empty strings": (member(npy(header((2**20,), "<U0"))), "numbers or strings"),
    "negative twice": (member(npy(header((-2, -4)), bytes(8))), "has shape (-2, -4)"),
    "negative and none": (member(npy(header((-1, 0)))), "has shape (-1, 0)"),
    "2^62 empty rows": (member(npy(header((2**62, 0)))), "of length 0 to"),
    "no rows of 2^62 columns": (member(npy(header((0, 2**62)))), "of length 0 to"),
    "a thousand dimensions": (member(npy(header((1,) * 1000), bytes(1))), "`x`"),
    "five dimensions": (member(npy(header((1,) * 5), bytes(1))), "1 to 4 dimensions"),
    "one row of 128 MB": (
        with_false_size(npy(header((1, 2**27))), 2**27 + len(npy(header((1, 2**27))))),
        "per row; the limits"),
    "a bomb": (bomb, "the limit is a factor of 200"),
    "a bomb by lzma": (
        member(npy(header((2**20, 64))) + bytes(2**26), zipfile.ZIP_LZMA), "compressed by a"),
    "a bomb by bzip2": (
        member(npy(header((2**20, 64))) + bytes(2**26), zipfile.ZIP_BZIP2), "compressed by a"),
    "a directory with a false size": (
        with_false_size(BIG, 2**30 + len(BIG)), "would decompress from"),
    "a directory with two false sizes": (
        with_false_size(BIG, 2**30 + len(BIG), packed=2**32 - 100), "would decompress from"),
    "a directory with a slightly false size": (
        with_false_size(npy(header((10**8,))), 10**8 + 63), "`x`"),
    "a directory with a false size of columns": (
        with_false_size(COLUMNS, 10**6 + len(COLUMNS)), "is damaged"),
    "a directory with a smaller size": (
        with_false_size(npy(header((10,)), bytes(2**20)), 9), "is damaged"),
    "a code point beyond Unicode": (
        member(npy(header((1,), "<U2"), b"\xff\xff\xff\x7f" * 2)), "not valid Unicode"),
    "a lone surrogate": (
        member(npy(header((1,), ">U1"), (0xD800).to_bytes(4, "big"))), "not valid Unicode"),
    "encrypted": (encrypted, "is encrypted or compressed by an unknown method"),
    "names with escape sequences": (names("\x1b[2J\x1b[31mred", "a\nb"), r"\x1b[2J\x1b[31mred"),
    "sixty thousand names": (names(*(f"name-{i}" for i in range(60_000))), "and 59980 more"),
    "a folder's name": (names("../../x"), "has no `x`"),
    "a pipe": (os.mkfifo, "is a device or pipe"),
}  # fmt: skip


def read(path: Path) -> None:
    with NpzReader(path) as reader:
        reader.read("x")


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_malicious_archive_is_refused(tmp_path: Path, make: Make, words: str) -> None:
    path = tmp_path / "bad.npz"
    make(path)
    text = refusal(read, path)
    assert words in text and "bad.npz" in text
    assert list(tmp_path.iterdir()) == [path]


def test_the_bombs_exceed_the_limit() -> None:
    """Otherwise their refusal would prove nothing."""
    for content in (lzma.compress(bytes(2**26)), bz2.compress(bytes(2**26))):
        assert len(content) < 2**26 // 4000


@pytest.mark.parametrize("name", ["/dev/zero", "x" * 300, "a\0b"])
def test_a_path_that_is_not_a_regular_file_is_refused(tmp_path: Path, name: str) -> None:
    assert "npz" in refusal(NpzReader, tmp_path / name) or "can't be read" in refusal(
        NpzReader, tmp_path / name
    )


def test_members_read_as_a_whole_have_a_size_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(200))
    read(tmp_path / "a.npz")
    monkeypatch.setattr(npz, "MOST_WHOLE_BYTES", 1599)
    assert "has 1,600 bytes; the limit is 1,599" in refusal(read, tmp_path / "a.npz")


def test_streamed_members_have_a_size_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(200))
    monkeypatch.setattr(npz, "MOST_BYTES", 1599)
    assert "has 1,600 bytes, 8 per row; the limits are 1,599" in refusal(read, tmp_path / "a.npz")


INVALID_DATA: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "images of 2000 pixels": ("val_images", lambda a: np.zeros((3, 2000, 2000), np.uint8), "1024"),
    "records for labels": ("val_labels", lambda a: np.zeros(3, [("a", "i4", 14)]), "numbers or"),
    "ids of a kilobyte": ("val_ids", lambda a: np.array(["x" * 1000] * 3), "512 characters"),
    "complex images": ("val_images", lambda a: a.astype(complex), "expected uint8"),
}


@pytest.mark.parametrize(("key", "corrupt", "words"), INVALID_DATA.values(), ids=INVALID_DATA)
def test_an_invalid_data_set_is_refused_before_anything_is_written(
    tmp_path: Path, key: str, corrupt: Callable[[Any], Any], words: str
) -> None:
    data = arrays()
    np.savez(tmp_path / "bad.npz", **data | {key: corrupt(data[key])})
    folder = tmp_path / "out"
    folder.mkdir()
    assert words in refusal(raw.check, tmp_path / "bad.npz", folder)
    assert not list(folder.iterdir())


STORED: dict[str, bytes] = {
    "too few bytes": npy(header((2**40,)), bytes(5)),
    "too many bytes": npy(header((2,)), bytes(5)),
    "4 GB of header": npy(header((2,)), bytes(2), 2, 2**32 - 16),
    "pickled": npy(header((2,), "|O"), bytes(2)),
    "negative": npy(header((-1, -2)), bytes(2)),
    "empty": b"",
    "text": b"not an array at all",
}


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("content", STORED.values(), ids=STORED)
def test_a_damaged_array_of_the_pipeline_is_refused(
    tmp_path: Path, content: bytes, mapped: bool
) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    assert "a.npy is damaged" in refusal(load_npy, tmp_path / "a.npy", mapped)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/etc", "a\\b", "a\nb", "\x1b[31mred", "x" * 201, "\u202egnp.exe"],
)
def test_a_data_set_name_must_be_a_plain_folder_name(name: str) -> None:
    assert "is not a valid data set name" in refusal(splits.Origin, name, "file")


JSONS = ["", "{", "[]", "null", '{"name": 1}', "[" * 100_000, '{"size": NaN}', "\x00", '"\\ud800"']


@pytest.mark.parametrize("text", JSONS, ids=range(len(JSONS)))
@pytest.mark.parametrize("what", ["origin", "dataset", "statistics"])
def test_a_damaged_json_file_is_named(tmp_path: Path, what: str, text: str) -> None:
    (tmp_path / f"{what}.json").write_text(text)
    readers: dict[str, Callable[[], Any]] = {
        "origin": lambda: splits.read_origin(tmp_path),
        "dataset": lambda: splits.open_dataset(tmp_path),
        "statistics": lambda: splits.open_statistics(tmp_path / "statistics.json"),
    }
    assert f"{what}.json is damaged" in refusal(readers[what])


def test_valid_files_are_accepted(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "good.npz", **arrays())
    with bounded():
        raw.check(tmp_path / "good.npz", tmp_path)
        raw.extract(
            tmp_path / "good.npz", splits.Origin("a [b] `c` $d$ é", "file"), tmp_path, "pad"
        )
    assert splits.open_dataset(tmp_path).n == {"train": 3, "val": 3, "test": 3}
    # Blank images compress to a thousandth, which is allowed for small files.
    np.savez_compressed(tmp_path / "blank.npz", x=np.zeros((1000, 28, 28), np.uint8))
    read(tmp_path / "blank.npz")

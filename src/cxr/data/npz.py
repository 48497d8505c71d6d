"""Read and write npz archives in chunks, so that memory use does not grow with the data.

Nothing is ever unpickled: before an array is created, its header must state a plain dtype, and the
stated shape must match the number of bytes in the archive. Sizes stated in a file are checked
against the limits below before memory is allocated.
"""

import errno
import io
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt

from cxr.documents import check_is_no_lfs_pointer, read_output
from cxr.errors import CxrError

Array = npt.NDArray[Any]

CHUNK_BYTES = 16 * 2**20

MOST_BYTES = 2**36  # of a streamed member: ten times ChestMNIST's images at 224 px
MOST_WHOLE_BYTES = 2**29  # of a member read as a whole: labels of 4 million images as int64
MOST_ITEM_BYTES = 2048  # of one value: an id of 512 characters
MOST_ROW_BYTES = 2**26  # of one row, the smallest unit read: an image of 8192 px
MOST_DIMENSIONS = 4
MOST_LENGTH = 2**31  # of one dimension; an empty array could state any length
# Members above BOMB_BYTES may decompress to at most MOST_INFLATION times their size. Radiographs
# compress to a third, labels to a tenth; deflate reaches 1032 at most.
BOMB_BYTES, MOST_INFLATION = 2**28, 200
KINDS = "biufcSUMm"  # dtype kinds without objects, nested dtypes and raw bytes
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile can't bound the rest
HEADER_BYTES = 10_000  # numpy's own limit, which it checks only after reading the header
SHOWN = 20  # member names in a message


class Header(NamedTuple):
    """Shape and dtype of a member."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class NpzReader:
    """The members of one npz file; any defect of the file raises a CxrError that names the file.

    Parameters
    ----------
    scratch : folder for temporary copies of arrays in Fortran order, whose rows are not contiguous;
        by default the system's temporary folder, which may be in memory.
    """

    def __init__(self, path: Path, scratch: Path | None = None) -> None:
        self.path = path
        self._scratch = scratch
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise CxrError(f"{path} is a device or pipe; expected an npz file")
            self._archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise CxrError(f"{path} does not exist; check the path") from None
        except IsADirectoryError:
            raise CxrError(f"{path} is a folder; expected an npz file") from None
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            if isinstance(error, OSError) and not _is_damage(error):
                raise CxrError(f"{path} can't be read: {error.strerror}") from None
            check_is_no_lfs_pointer(path)
            raise CxrError(f"{path} {_defect(path)}") from None
        self.keys = frozenset(
            name.removesuffix(".npy") for name in self._archive.namelist() if name.endswith(".npy")
        )
        self._n_bytes = path.stat().st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()
        if error is not None and _is_damage(error):
            raise CxrError(f"{self.path} is damaged; get a new copy of the file") from None

    def require(self, keys: Iterable[str], fix: str = "") -> None:
        """CxrError that names the missing keys and those that the file contains."""
        if missing := [f"`{key}`" for key in keys if key not in self.keys]:
            names = sorted(self.keys)
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise CxrError(
                f"{self.path} has no {', '.join(missing)}; it contains "
                f"{', '.join(names[:SHOWN]) or 'no arrays'}{more}{fix}"
            )

    def header(self, key: str) -> Header:
        """Shape and dtype of a member; CxrError if it is missing, pickled or inconsistent."""
        with self._open(key) as member:
            return self._read_header(member, key)[0]

    def chunks(self, key: str) -> Iterator[Array]:
        """The member's rows in order, each chunk an array of at most CHUNK_BYTES or of one row."""
        with self._open(key) as member:
            (shape, dtype), is_fortran = self._read_header(member, key)
            row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            rows = max(1, CHUNK_BYTES // max(1, row_bytes))
            has_order = is_fortran and shape[0] * row_bytes > 0
            mapped = self._spooled(member, shape, dtype) if has_order else None
            for start in range(0, shape[0], rows):
                n = min(rows, shape[0] - start)
                if mapped is not None:
                    rows_read = np.ascontiguousarray(mapped[start : start + n])
                else:
                    values = _read_exactly(member, n * row_bytes)
                    rows_read = np.frombuffer(values, dtype=dtype).reshape(n, *shape[1:])
                if dtype.kind == "U" and not _is_text(rows_read):
                    raise CxrError(f"{self.path}: `{key}` contains text that is not valid Unicode")
                yield rows_read

    def read(self, key: str) -> Array:
        """A small member as a whole: labels, ids or patients."""
        shape, dtype = self.header(key)
        if (stated := _n_bytes(shape, dtype)) > MOST_WHOLE_BYTES:
            raise CxrError(
                f"{self.path}: `{key}` has {stated:,} bytes; the limit is {MOST_WHOLE_BYTES:,}"
            )
        parts = list(self.chunks(key))
        return np.concatenate(parts) if parts else np.empty(shape, dtype)

    def _open(self, key: str) -> IO[bytes]:
        self.require([key])
        try:
            self._check_compression(key)
            return self._archive.open(f"{key}.npy")
        # encrypted, compressed by a method that zipfile does not know, or with an invalid name
        except (RuntimeError, ValueError):
            raise CxrError(
                f"{self.path}: `{key}` is encrypted or compressed by an unknown method; save it "
                "with np.savez"
            ) from None

    def _check_compression(self, key: str) -> None:
        info = self._archive.getinfo(f"{key}.npy")
        if info.compress_type not in COMPRESSIONS:
            raise CxrError(
                f"{self.path}: `{key}` is compressed by a method that numpy does not use; save it "
                "with np.savez"
            )
        compressed = min(info.compress_size, self._n_bytes)  # the archive may state a false size
        if info.file_size > max(BOMB_BYTES, MOST_INFLATION * compressed):
            raise CxrError(
                f"{self.path}: `{key}` would decompress from {compressed:,} to "
                f"{info.file_size:,} bytes; the limit is a factor of {MOST_INFLATION}"
            )

    def _spooled(self, member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array in Fortran order, mapped from a temporary file that is deleted with it."""
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            shutil.copyfileobj(member, file, CHUNK_BYTES)
            if file.tell() != _n_bytes(shape, dtype):
                raise EOFError
            file.flush()
            return np.memmap(file, dtype, "r", shape=shape, order="F")

    def _read_header(self, member: IO[bytes], key: str) -> tuple[Header, bool]:
        """Shape and dtype of a member, and whether its values are in Fortran order."""
        try:
            shape, is_fortran, dtype = parse_header(member)
        except ValueError:
            raise CxrError(
                f"{self.path}: `{key}` is not a numpy array; save it with np.savez"
            ) from None
        if dtype.hasobject:
            raise CxrError(
                f"{self.path}: `{key}` contains pickled Python objects, which are never loaded; "
                "save it with a plain dtype such as np.uint8 or str"
            )
        if dtype.kind not in KINDS or not 0 < dtype.itemsize <= MOST_ITEM_BYTES:
            raise CxrError(
                f"{self.path}: `{key}` has dtype {dtype}; expected numbers or strings of at most "
                f"{MOST_ITEM_BYTES // 4} characters"
            )
        if not shape:
            raise CxrError(f"{self.path}: `{key}` is a single value; expected an array of rows")
        if len(shape) > MOST_DIMENSIONS or not all(0 <= n <= MOST_LENGTH for n in shape):
            raise CxrError(
                f"{self.path}: `{key}` has shape {shape}; expected 1 to {MOST_DIMENSIONS} "
                f"dimensions of length 0 to {MOST_LENGTH:,}"
            )
        stated = _n_bytes(shape, dtype)
        actual = self._archive.getinfo(f"{key}.npy").file_size - member.tell()
        if stated != actual:
            raise CxrError(
                f"{self.path}: `{key}` has {actual} bytes, but its header states {stated}; get a "
                "new copy of the file"
            )
        row_bytes = _n_bytes(shape[1:], dtype)
        if stated > MOST_BYTES or row_bytes > MOST_ROW_BYTES:
            raise CxrError(
                f"{self.path}: `{key}` has {stated:,} bytes, {row_bytes:,} per row; the limits are "
                f"{MOST_BYTES:,} and {MOST_ROW_BYTES:,}"
            )
        return Header(shape, dtype), is_fortran


class NpyWriter:
    """One .npy array of a known shape, written chunk by chunk."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._file = file
        self._dtype = np.dtype(dtype)
        np.lib.format.write_array_header_1_0(
            file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": shape,
            },
        )

    def append(self, rows: Array) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())


def parse_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype from the header of a .npy file, read up to the first value.

    Raises
    ------
    ValueError
        If the header is invalid or longer than numpy's own limit.
    """
    start = file.read(np.lib.format.MAGIC_LEN)
    readers: dict[tuple[int, int], tuple[str, Any]] = {
        (1, 0): ("<H", np.lib.format.read_array_header_1_0),
        (2, 0): ("<I", np.lib.format.read_array_header_2_0),
    }
    version = np.lib.format.read_magic(io.BytesIO(start))
    if version not in readers:
        raise ValueError(f"its header has the unsupported version {version}")
    kind, read = readers[version]
    length = file.read(struct.calcsize(kind))
    # numpy itself would allocate the stated length of the header: up to 4 GB.
    if len(length) < struct.calcsize(kind) or struct.unpack(kind, length)[0] > HEADER_BYTES:
        raise ValueError("its header is truncated or too long")
    text = file.read(struct.unpack(kind, length)[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2 and odd syntax
            shape, fortran_order, dtype = read(io.BytesIO(length + text))
    except Exception as error:  # numpy's parsers raise many types on invalid bytes
        raise ValueError(str(error)) from None
    return tuple(map(int, shape)), bool(fortran_order), dtype


def load_npy(path: Path, mapped: bool = False) -> Array:
    """Load an array that the pipeline wrote, in C order; memory-mapped copy-on-write if `mapped`.

    Raises
    ------
    CxrError
        If the file is missing or does not match its header.
    """
    load = partial(np.load, mmap_mode="c" if mapped else None, allow_pickle=False)
    return cast(Array, read_output(path, load, read=_checked_path))


def write_npz_member(
    archive: zipfile.ZipFile,
    key: str,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    chunks: Iterator[Array],
) -> None:
    """Add one member to an open archive; the same rows always give the same bytes."""
    with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
        writer = NpyWriter(member, shape, dtype)
        for rows in chunks:
            writer.append(rows)


def write_npz_arrays(archive: zipfile.ZipFile, arrays: Mapping[str, Array]) -> None:
    """Add small members to an open archive."""
    for key, values in arrays.items():
        write_npz_member(archive, key, values.shape, values.dtype, iter([values]))


def _checked_path(path: Path) -> Path:
    """The path itself; ValueError if the file does not match its header."""
    with open(path, "rb") as file:
        shape, fortran_order, dtype = parse_header(file)
        if dtype.hasobject or fortran_order or min(shape, default=-1) < 0:
            raise ValueError("it is not a C-ordered array of plain values")
        if file.tell() + _n_bytes(shape, dtype) != path.stat().st_size:
            raise ValueError("its size does not match its header")
    return path


def _n_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return dtype.itemsize * int(np.prod(shape, dtype=object))


def _is_text(values: Array) -> bool:
    """Whether every code point is valid; numpy checks that only when it creates a str."""
    codes = np.ascontiguousarray(values).view(values.dtype.byteorder.replace("|", "=") + "u4")
    return not bool(((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any())


def _is_damage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.EINVAL  # the archive points before its own start
    return isinstance(error, zipfile.BadZipFile | zlib.error | EOFError)


def _defect(path: Path) -> str:
    """Why a file is not an npz archive, and the fix."""
    try:
        with open(path, "rb") as file:
            is_array = file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
    except (OSError, ValueError):
        is_array = False
    if is_array:
        return "is a single array (.npy); save all arrays to one npz file with np.savez"
    return "is not an npz file or is truncated; get a new copy of the file"


def _read_exactly(member: IO[bytes], n_bytes: int) -> bytes:
    values = member.read(n_bytes)
    if len(values) != n_bytes:
        raise EOFError
    return values

"""npz archives read and written in chunks, so that memory does not grow with the data.

Nothing is ever unpickled: a member's header must state a plain dtype, and its stated shape must
equal the bytes that the archive holds, before any array is made. What a file says of its sizes is
held against the limits below before memory is taken for it.
"""

import errno
import io
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
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

MOST_BYTES = 2**36  # of a member that is streamed: ten times ChestMNIST's images at 224 px
MOST_WHOLE_BYTES = 2**29  # of one that is read whole: the labels of 4 million images as int64
MOST_ITEM_BYTES = 2048  # of one value: an id of 512 characters
MOST_ROW_BYTES = 2**26  # of one row, the least that is read at once: an image of 8192 px
MOST_DIMENSIONS = 4
MOST_LENGTH = 2**31  # of one dimension, which an array without values could state for nothing
# Radiographs pack to a third, labels to a tenth; deflate's own most is 1032.
BOMB_BYTES, MOST_INFLATION = 2**28, 200  # above BOMB_BYTES none may unpack to more times its
KINDS = "biufcSUMm"  # all that hold no other arrays, objects or bytes without a meaning
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks others without a limit
HEADER_BYTES = 10_000  # the most that numpy itself reads, which it checks after it has read it
SHOWN = 20  # names of members in a message


class Header(NamedTuple):
    """What a member says of itself before its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class NpzReader:
    """The members of one npz file; every fault of the file is a CxrError that names it.

    Parameters
    ----------
    scratch : folder for an array in Fortran order, whose rows are not stored one after the other;
        the system's folder of temporary files by default, which may be in memory.
    """

    def __init__(self, path: Path, scratch: Path | None = None) -> None:
        self.path = path
        self._scratch = scratch
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise CxrError(f"{path} is a device or a pipe; an npz file is needed")
            self._archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise CxrError(f"{path} does not exist") from None
        except IsADirectoryError:
            raise CxrError(f"{path} is a folder; an npz file is needed") from None
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            if isinstance(error, OSError) and not _is_damage(error):
                raise CxrError(f"{path} can't be read: {error.strerror}") from None
            check_is_no_lfs_pointer(path)
            raise CxrError(f"{path} {_what_else(path)}") from None
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
            raise CxrError(f"{self.path} is damaged; get the file again") from None

    def require(self, keys: Iterable[str], fix: str = "") -> None:
        """CxrError with all that are missing and what the file holds instead."""
        if missing := [f"`{key}`" for key in keys if key not in self.keys]:
            names = sorted(self.keys)
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise CxrError(
                f"{self.path} has no {', '.join(missing)}; it holds "
                f"{', '.join(names[:SHOWN]) or 'nothing'}{more}{fix}"
            )

    def header(self, key: str) -> Header:
        """Shape and dtype of a member; CxrError where it is missing, pickled or lies."""
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
                    raise CxrError(f"{self.path}: `{key}` holds text that is not Unicode")
                yield rows_read

    def read(self, key: str) -> Array:
        """The whole member, for those that are small: labels, ids, patients."""
        shape, dtype = self.header(key)
        if (stated := _n_bytes(shape, dtype)) > MOST_WHOLE_BYTES:
            raise CxrError(
                f"{self.path}: `{key}` states {stated:,} bytes; at most {MOST_WHOLE_BYTES:,} of it "
                "are read"
            )
        parts = list(self.chunks(key))
        return np.concatenate(parts) if parts else np.empty(shape, dtype)

    def _open(self, key: str) -> IO[bytes]:
        self.require([key])
        try:
            self._check_packing(key)
            return self._archive.open(f"{key}.npy")
        # encrypted, packed in a way that zipfile does not know, or under a name of no Unicode
        except (RuntimeError, ValueError):
            raise CxrError(
                f"{self.path}: `{key}` can't be unpacked, since it is encrypted or packed in an "
                "unknown way; save it with np.savez"
            ) from None

    def _check_packing(self, key: str) -> None:
        about = self._archive.getinfo(f"{key}.npy")
        if about.compress_type not in PACKED:
            raise CxrError(
                f"{self.path}: `{key}` is packed in another way than numpy packs; save it with "
                "np.savez"
            )
        packed = min(about.compress_size, self._n_bytes)  # the archive may lie about it
        if about.file_size > max(BOMB_BYTES, MOST_INFLATION * packed):
            raise CxrError(
                f"{self.path}: `{key}` would unpack from {packed:,} to {about.file_size:,} bytes; "
                f"no more than {MOST_INFLATION} times are unpacked"
            )

    def _spooled(self, member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array in Fortran order, mapped from a temporary file that is gone with the array."""
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            shutil.copyfileobj(member, file, CHUNK_BYTES)
            if file.tell() != _n_bytes(shape, dtype):
                raise EOFError
            file.flush()
            return np.memmap(file, dtype, "r", shape=shape, order="F")

    def _read_header(self, member: IO[bytes], key: str) -> tuple[Header, bool]:
        """What a member says of itself, and whether its values are in Fortran order."""
        try:
            shape, is_fortran, dtype = parse_header(member)
        except ValueError:
            raise CxrError(
                f"{self.path}: `{key}` is not a numpy array; save it with np.savez"
            ) from None
        if dtype.hasobject:
            raise CxrError(
                f"{self.path}: `{key}` holds pickled Python objects, which are never loaded; "
                "save it with a plain dtype such as np.uint8 or str"
            )
        if dtype.kind not in KINDS or not 0 < dtype.itemsize <= MOST_ITEM_BYTES:
            raise CxrError(
                f"{self.path}: `{key}` is {dtype}; numbers or texts of at most "
                f"{MOST_ITEM_BYTES // 4} characters are needed"
            )
        if not shape:
            raise CxrError(f"{self.path}: `{key}` is a single value; an array of rows is needed")
        if len(shape) > MOST_DIMENSIONS or not all(0 <= n <= MOST_LENGTH for n in shape):
            raise CxrError(f"{self.path}: `{key}` has shape {shape}, which no data has")
        stated = _n_bytes(shape, dtype)
        held = self._archive.getinfo(f"{key}.npy").file_size - member.tell()
        if stated != held:
            raise CxrError(
                f"{self.path}: `{key}` states {stated} bytes and holds {held}; get the file again"
            )
        row = _n_bytes(shape[1:], dtype)
        if stated > MOST_BYTES or row > MOST_ROW_BYTES:
            raise CxrError(
                f"{self.path}: `{key}` states {stated:,} bytes, {row:,} a row; at most "
                f"{MOST_BYTES:,} and {MOST_ROW_BYTES:,} are read"
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
    """Shape, Fortran order and dtype that a .npy file states, read up to its first value.

    Raises
    ------
    ValueError
        Where it is no such header, or one that is longer than numpy itself takes.
    """
    start = file.read(np.lib.format.MAGIC_LEN)
    readers: dict[tuple[int, int], tuple[str, Any]] = {
        (1, 0): ("<H", np.lib.format.read_array_header_1_0),
        (2, 0): ("<I", np.lib.format.read_array_header_2_0),
    }
    version = np.lib.format.read_magic(io.BytesIO(start))
    if version not in readers:
        raise ValueError(f"a header of version {version}")
    kind, read = readers[version]
    length = file.read(struct.calcsize(kind))
    # numpy itself would take memory for as much as the header says of its length: up to 4 GB.
    if len(length) < struct.calcsize(kind) or struct.unpack(kind, length)[0] > HEADER_BYTES:
        raise ValueError("a header that is cut short or too long")
    text = file.read(struct.unpack(kind, length)[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python 2, and of what its parser finds odd
            shape, fortran_order, dtype = read(io.BytesIO(length + text))
    except Exception as error:  # its parsers let out whatever the bytes lead them to
        raise ValueError(str(error)) from None
    return tuple(map(int, shape)), bool(fortran_order), dtype


def load_npy(path: Path, mapped: bool = False) -> Array:
    """An array that the pipeline wrote, of rows in C order, whole or mapped copy-on-write.

    Raises
    ------
    CxrError
        Where the file is missing, or is not what its header says.
    """
    load = partial(np.load, mmap_mode="c" if mapped else None, allow_pickle=False)
    return cast(Array, read_output(path, load, read=_checked))


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


def _checked(path: Path) -> Path:
    """The path itself; ValueError where the file is not what its header says."""
    with open(path, "rb") as file:
        shape, fortran_order, dtype = parse_header(file)
        if dtype.hasobject or fortran_order or min(shape, default=-1) < 0:
            raise ValueError("no array of rows of plain values")
        if file.tell() + _n_bytes(shape, dtype) != path.stat().st_size:
            raise ValueError("its size is not what its header says")
    return path


def _n_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return dtype.itemsize * int(np.prod(shape, dtype=object))


def _is_text(values: Array) -> bool:
    """Whether every character is one: numpy itself finds out when it makes a str of it."""
    codes = np.ascontiguousarray(values).view(values.dtype.byteorder.replace("|", "=") + "u4")
    return not bool(((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any())


def _is_damage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.EINVAL  # the archive points to before its start
    return isinstance(error, zipfile.BadZipFile | zlib.error | EOFError)


def _what_else(path: Path) -> str:
    """What a file is that is not an npz, and what to do about it."""
    try:
        with open(path, "rb") as file:
            is_array = file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
    except (OSError, ValueError):
        is_array = False
    if is_array:
        return "is one array (.npy); save all arrays into one file with np.savez"
    return "is not an npz file, or it is cut short; get the file again"


def _read_exactly(member: IO[bytes], n_bytes: int) -> bytes:
    values = member.read(n_bytes)
    if len(values) != n_bytes:
        raise EOFError
    return values

"""npz archives read and written in chunks, so that memory does not grow with the data.

Nothing is ever unpickled: a member's header must state a plain dtype, and its stated shape must
equal the bytes that the archive holds, before any array is made.
"""

import errno
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from cxr.errors import CxrError

Array = npt.NDArray[Any]

CHUNK_BYTES = 16 * 2**20


class Header(NamedTuple):
    """What a member says of itself before its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class NpzReader:
    """The members of one npz file; every fault of the file is a CxrError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise CxrError(f"{path} does not exist") from None
        except IsADirectoryError:
            raise CxrError(f"{path} is a folder; an npz file is needed") from None
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and not _is_damage(error):
                raise CxrError(f"{path} can't be read: {error.strerror}") from None
            raise CxrError(
                f"{path} is not an npz file, or it is cut short; get the file again"
            ) from None
        self.keys = frozenset(
            name.removesuffix(".npy") for name in self._archive.namelist() if name.endswith(".npy")
        )

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
            raise CxrError(f"{self.path} is damaged ({error}); get the file again") from None

    def header(self, key: str) -> Header:
        """Shape and dtype of a member; CxrError where it is missing, pickled or lies."""
        with self._open(key) as member:
            return self._read_header(member, key)

    def chunks(self, key: str) -> Iterator[Array]:
        """The member's rows in order, each chunk an array of at most CHUNK_BYTES."""
        with self._open(key) as member:
            shape, dtype = self._read_header(member, key)
            row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            rows = max(1, CHUNK_BYTES // max(1, row_bytes))
            for start in range(0, shape[0], rows):
                n = min(rows, shape[0] - start)
                values = _read_exactly(member, n * row_bytes)
                yield np.frombuffer(values, dtype=dtype).reshape(n, *shape[1:])

    def read(self, key: str) -> Array:
        """The whole member, for those that are small: labels, ids, patients."""
        shape, dtype = self.header(key)
        parts = list(self.chunks(key))
        return np.concatenate(parts) if parts else np.empty(shape, dtype)

    def _open(self, key: str) -> IO[bytes]:
        if key not in self.keys:
            raise CxrError(
                f"{self.path} has no `{key}`; it holds {', '.join(sorted(self.keys)) or 'nothing'}"
            )
        try:
            return self._archive.open(f"{key}.npy")
        except RuntimeError as error:  # encrypted, or packed in a way that zipfile does not know
            raise CxrError(
                f"{self.path}: `{key}` can't be unpacked ({error}); save it with np.savez"
            ) from None

    def _read_header(self, member: IO[bytes], key: str) -> Header:
        try:
            version = np.lib.format.read_magic(member)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran_order, dtype = read(member)
        except (ValueError, KeyError, TypeError, SyntaxError):
            raise CxrError(f"{self.path}: `{key}` is not a numpy array") from None
        if dtype.hasobject:
            raise CxrError(
                f"{self.path}: `{key}` holds pickled Python objects, which are never loaded; "
                "save it with a plain dtype"
            )
        if fortran_order or not shape:
            raise CxrError(
                f"{self.path}: `{key}` must be an array of rows in C order; "
                "save it with np.ascontiguousarray"
            )
        stated = dtype.itemsize * int(np.prod(shape, dtype=object))
        held = self._archive.getinfo(f"{key}.npy").file_size - member.tell()
        if stated != held:
            raise CxrError(
                f"{self.path}: `{key}` states {stated} bytes and holds {held}; get the file again"
            )
        return Header(shape, dtype)


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


def _is_damage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.EINVAL  # the archive points to before its start
    return isinstance(error, zipfile.BadZipFile | zlib.error | EOFError)


def _read_exactly(member: IO[bytes], n_bytes: int) -> bytes:
    values = member.read(n_bytes)
    if len(values) != n_bytes:
        raise EOFError("the file is cut short")
    return values

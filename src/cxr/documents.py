"""Read files within size limits and without executing them; write files atomically."""

import json
import math
import os
import re
import shlex
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from cxr.errors import CxrError, one_line

T = TypeVar("T")

MOST_YAML_BYTES = 2**18  # ours have 20 kB; the parser takes a second for 70 kB
MOST_JSON_BYTES = 2**26  # a record of a thousand epochs has 1 MB, a list of 300,000 files 30 MB
PIECE_BYTES = 2**16
LONE_SURROGATE = re.compile(
    "[\ud800-\udfff]"
)  # a JSON escape can produce one; UTF-8 can't store it
CONFLICT = re.compile(rb"^<{7} ", re.MULTILINE)  # git's merge conflict marker
MOST_DEPTH = 32  # nesting levels of JSON; our files have seven
MOST_INTEGER = 2**63  # other programs can't read larger numbers

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # start of a pointer


def check_is_no_lfs_pointer(path: Path) -> None:
    """Raise CxrError if git has checked out a Git LFS pointer instead of the file."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS_POINTER))
    except (OSError, ValueError):  # reported when the file is read
        return
    check_content_is_no_lfs_pointer(path, start)


def check_content_is_no_lfs_pointer(path: Path, content: bytes) -> None:
    """As `check_is_no_lfs_pointer`, for content already read, such as from a pipe."""
    if content.startswith(LFS_POINTER):
        raise CxrError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull`")


def read_within(path: Path, most_bytes: int) -> bytes:
    """Read a file in pieces; ValueError if it has more than `most_bytes` bytes."""
    content = bytearray()
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            content += piece
            if len(content) > most_bytes:
                raise ValueError(f"it has more than {most_bytes:,} bytes")
    return bytes(content)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    FileNotFoundError
    ValueError
        If it is not JSON, contains NaN or infinity, or exceeds the limits above.
    """
    return parse_json(read_within(path, MOST_JSON_BYTES))


def read_output(
    path: Path, parse: Callable[[Any], T], read: Callable[[Path], Any] = read_json
) -> T:
    """Read and parse a file written by the pipeline.

    Raises
    ------
    CxrError
        With the fix, if the file is missing or is not what the pipeline writes.
    """
    try:
        return parse(read(path))
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise damaged(path, one_line(error)) from None


def missing(path: Path) -> CxrError:
    """The error for a missing output of a stage."""
    return CxrError(f"{path} is missing; fetch it with `dvc pull` or make it with `dvc repro`")


def damaged(path: Path, cause: str) -> CxrError:
    """The error for a damaged output of a stage, or a file inside one."""
    return CxrError(
        f"{path} is damaged ({cause}); restore it with `dvc checkout --force "
        f"{shlex.quote(str(path))}` or make it again with `dvc repro`"
    )


def validated(schema: TypeAdapter[T], content: Any) -> T:
    """Validate content against a schema; ValueError with one line that names the first problem."""
    try:
        return schema.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: after a power failure it has its old or its new content.

    Parameters
    ----------
    content : the bytes, or a function that writes them to the open file.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping as DVC reads it; CxrError with one line if it is not one."""
    try:
        content = parse_yaml(read_within(path, MOST_YAML_BYTES))
    except FileNotFoundError:
        raise CxrError(f"{path} is missing; {restoring(path)}") from None
    except ValueError as error:
        raise CxrError(f"{path} {defect(path, f'is not valid YAML: {error}')}") from None
    if not isinstance(content, dict):
        raise CxrError(f"{path} must contain a mapping of keys to values; {restoring(path)}")
    return content


def restoring(path: Path) -> str:
    """The command that restores the committed version of a file."""
    return f"restore it with `git checkout -- {shlex.quote(str(path))}`"


def defect(path: Path, problem: str) -> str:
    """The problem of an unreadable file that git tracks, with its fix.

    If the file has merge conflicts, these are the problem, and `git checkout --` can't restore it.
    """
    with open(path, "rb") as file:
        start = file.read(MOST_YAML_BYTES)
    if CONFLICT.search(start):
        return (
            "has merge conflicts; resolve them, or keep one side with "
            f"`git checkout --ours {shlex.quote(str(path))}` (or --theirs)"
        )
    return f"{problem}; {restoring(path)}"


def parse_yaml(text: bytes | str) -> Any:
    """Parse YAML 1.2; ValueError with one line if it is invalid."""
    try:
        # Not DVC's faster parser in C, which crashes the process on deeply nested files.
        return YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # ruamel can raise any exception on malformed bytes
        raise ValueError(" ".join(str(error).split())) from None


def parse_json(text: bytes | str) -> Any:
    """Parse JSON; ValueError as in `read_json`."""
    try:
        content = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_bounded)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_values(content)
    return content


def _finite(text: str) -> float:
    """Parse a number; NaN and infinity are not JSON, although Python reads and writes them."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _bounded(text: str) -> int:
    value = int(text)
    if abs(value) >= MOST_INTEGER:
        raise ValueError("it contains an integer of more than 63 bits")
    return value


def _check_values(content: Any) -> None:
    """ValueError if values are nested too deeply, or a string is not valid Unicode."""
    level = [content]
    for _ in range(MOST_DEPTH):
        if any(isinstance(each, str) and LONE_SURROGATE.search(each) for each in level):
            raise ValueError("it contains text that is not valid Unicode")
        mappings = [each for each in level if isinstance(each, dict)]
        lists = [each for each in level if isinstance(each, list)]
        level = [*chain(*mappings, *(each.values() for each in mappings), *lists)]
    if level:
        raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")

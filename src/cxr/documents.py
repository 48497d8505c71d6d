"""Files read within limits and never as code, and files written whole or not at all."""

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

MOST_YAML_BYTES = 2**18  # ours have 20 kB, and the parser takes a second for 70 kB
MOST_JSON_BYTES = 2**26  # a record of a thousand epochs has 1 MB, a list of 300,000 files 30 MB
PIECE_BYTES = 2**16
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # an escape can make one, and no file can hold it
CONFLICT = re.compile(rb"^<{7} ", re.MULTILINE)  # git's mark of a merge conflict
MOST_DEPTH = 32  # of JSON, mappings and lists in each other; ours go down to seven
MOST_INTEGER = 2**63  # beyond it other programs can't read a number

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # begins what stands for a file


def check_is_no_lfs_pointer(path: Path) -> None:
    """CxrError where git has checked out a pointer of Git LFS instead of the file."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS_POINTER))
    except (OSError, ValueError):  # whoever reads the file reports that
        return
    check_content_is_no_lfs_pointer(path, start)


def check_content_is_no_lfs_pointer(path: Path, content: bytes) -> None:
    """The same of a content that has been read, as from a pipe."""
    if content.startswith(LFS_POINTER):
        raise CxrError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull`")


def read_within(path: Path, most_bytes: int) -> bytes:
    """A file's content, piece by piece; ValueError where it has more bytes than that."""
    content = bytearray()
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            content += piece
            if len(content) > most_bytes:
                raise ValueError(f"it has more than {most_bytes:,} bytes")
    return bytes(content)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises
    ------
    FileNotFoundError
    ValueError
        Where it is no JSON of finite numbers, or beyond the limits above.
    """
    return parse_json(read_within(path, MOST_JSON_BYTES))


def read_made(path: Path, parse: Callable[[Any], T], read: Callable[[Path], Any] = read_json) -> T:
    """What a file that the pipeline made holds, as `parse` makes it of the file's content.

    Raises
    ------
    CxrError
        With the remedy, where the file is missing or is not what the pipeline writes.
    """
    try:
        return parse(read(path))
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise damaged(path, one_line(error)) from None


def missing(path: Path) -> CxrError:
    """Of an output of a stage."""
    return CxrError(f"{path} is missing; fetch it with `dvc pull` or make it with `dvc repro`")


def damaged(path: Path, cause: str) -> CxrError:
    """Of an output of a stage, or of a file inside one."""
    return CxrError(
        f"{path} is damaged ({cause}); restore it with `dvc checkout --force "
        f"{shlex.quote(str(path))}` or make it again with `dvc repro`"
    )


def validated(schema: TypeAdapter[T], content: Any) -> T:
    """The content as its schema has it; ValueError with one line that names what is not so."""
    try:
        return schema.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file that is whole or as it was before, also after a power failure.

    Parameters
    ----------
    content : the bytes, or what writes them into the open file that it is given.
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
    """A YAML 1.2 mapping, read as DVC reads it; CxrError with one line where it is none."""
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
    """How to get the committed version of a file back."""
    return f"restore it with `git checkout -- {shlex.quote(str(path))}`"


def defect(path: Path, found: str) -> str:
    """What is wrong with a file under git that can't be read, and the fix; `found` is its defect.

    After a merge that is a conflict, and git restores no file that has one.
    """
    with open(path, "rb") as file:
        start = file.read(MOST_YAML_BYTES)
    if CONFLICT.search(start):
        return (
            "has merge conflicts; resolve them, or keep one side with "
            f"`git checkout --ours {shlex.quote(str(path))}` (or --theirs)"
        )
    return f"{found}; {restoring(path)}"


def parse_yaml(text: bytes | str) -> Any:
    """What a YAML 1.2 text holds; ValueError with one line where it is not YAML."""
    try:
        # Not DVC's faster reader in C, which ends the process where a file nests too deeply.
        return YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # ruamel lets out whatever the bytes lead it to
        raise ValueError(" ".join(str(error).split())) from None


def parse_json(text: bytes | str) -> Any:
    """What a JSON text holds; ValueError as `read_json`."""
    try:
        content = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_bounded)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_values(content)
    return content


def _finite(text: str) -> float:
    """A number of JSON; NaN and infinity are none, though Python reads and writes them."""
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
    """ValueError where values nest too deeply, or a text is not Unicode."""
    level = [content]
    for _ in range(MOST_DEPTH):
        if any(isinstance(each, str) and HALF_CHARACTER.search(each) for each in level):
            raise ValueError("it contains text that is not valid Unicode")
        mappings = [each for each in level if isinstance(each, dict)]
        lists = [each for each in level if isinstance(each, list)]
        level = [*chain(*mappings, *(each.values() for each in mappings), *lists)]
    if level:
        raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")

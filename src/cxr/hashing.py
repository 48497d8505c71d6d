"""MD5 of files and folders, as DVC computes them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cxr.documents import missing

MD5 = r"^[0-9a-f]{32}(\.dir)?$"  # of a file or a folder
Md5 = Annotated[str, Field(pattern=MD5)]
IGNORED = "__pycache__"  # also in .dvcignore


@dataclass(frozen=True)
class Digest:
    """Content of a file or folder, identified as DVC does."""

    md5: Md5
    size: int  # bytes
    nfiles: int | None = None  # files in a folder


def digest(path: Path, md5_of: Callable[[Path], str] | None = None) -> Digest:
    """MD5 of a file, or of a folder as DVC computes it; `md5_of` may use a cache."""
    md5_of = md5_of or md5_of_file
    if path.is_file():
        return Digest(md5_of(path), path.stat().st_size)
    if not path.is_dir():
        raise missing(path)
    files = files_below(path)
    size = sum(file.stat().st_size for file in files.values())
    return Digest(md5_of_folder({name: md5_of(p) for name, p in files.items()}), size, len(files))


def files_below(folder: Path) -> dict[str, Path]:
    """The files that DVC hashes in a folder, by relative path."""
    found = (path for path in folder.rglob("*") if path.is_file() and IGNORED not in path.parts)
    return {path.relative_to(folder).as_posix(): path for path in found}


def md5_of_folder(md5s: dict[str, str]) -> str:
    """DVC's hash of a folder: the MD5 of the sorted list of its files' MD5s."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(md5s.items())]
    listing = json.dumps(entries, sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def md5_of_file(path: Path) -> str:
    """MD5 as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

"""Find the image files that a table names."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from cxr.data.columns import InvalidTable, refuse
from cxr.data.ids import FILE_TYPE
from cxr.data.images.find import files_below

KEY = "download.table.folders"


def image_folders(names: Sequence[str], root: Path) -> list[Path]:
    """Folders with images; relative ones start at `root`. InvalidTable if one does not exist."""
    folders = []
    for name in names:
        try:
            folder = Path(os.path.abspath(root / Path(name).expanduser()))  # noqa: PTH100 - links stay
            exists = folder.is_dir()
        except (OSError, RuntimeError, ValueError):  # the name is too long, or ~user is unknown
            folder, exists = root / name, False
        if not exists:
            raise InvalidTable([f"{KEY}: {folder} is not a folder; relative paths start at {root}"])
        folders.append(folder)
    return folders


def locate(names: Sequence[str], folders: Sequence[Path]) -> list[str | None]:
    """The file of each name, None if there is none.

    A file belongs to a name if its path ends with the name. The name may lack the file type, or
    state another one, if no file has exactly that name.

    Parameters
    ----------
    names : (N,), with any number of folders in front.
    folders : absolute paths, searched with their subfolders.

    Raises
    ------
    InvalidTable
        If two files belong to a name, or two names to a file.
    """
    wanted = [plain(name) for name in names]
    depths = {each.count("/") + 1 for each in wanted}
    exact, without_type = _Files(wanted), _Files(map(_bare, wanted))
    for folder in folders:
        for path in files_below(folder):
            parts = unicodedata.normalize("NFC", path).split("/")
            for depth in depths:
                end = "/".join(parts[-depth:])
                exact.add(end, path)
                without_type.add(_bare(end), path)
    found: list[str | None] = []
    problems, first_name = [], dict[str, str]()
    for name, text in zip(names, wanted, strict=True):
        files, key = (exact, text) if text in exact.first else (without_type, _bare(text))
        file = files.first.get(key)
        found.append(file)
        if key in files.second:
            problems.append(
                f"{name!r} could be {file} or {files.second[key]}; add the folder to the name, or "
                "remove one file"
            )
        elif file is not None and (other := first_name.setdefault(file, name)) != name:
            problems.append(f"{other!r} and {name!r} are both {file}; keep one row per image")
    refuse(problems)
    return found


class _Files:
    """The first two files of each of some names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self.first: dict[str, str] = {}
        self.second: dict[str, str] = {}

    def add(self, name: str, path: str) -> None:
        if name in self._names and self.first.setdefault(name, path) != path:
            self.second[name] = path


def plain(name: str) -> str:
    """A name with `/` between its folders, in Unicode's composed form (macOS decomposes it)."""
    parts = name.replace("\\", "/").split("/")
    return unicodedata.normalize("NFC", "/".join(p for p in parts if p not in ("", ".", "..")))


def _bare(name: str) -> str:
    return FILE_TYPE.sub("", name)

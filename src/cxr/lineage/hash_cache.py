"""MD5s of big files, remembered for as long as the file is the same."""

import json
import time
from pathlib import Path

from cxr.documents import read_json, write_whole
from cxr.hashing import md5_of_file

BIG = 2**20  # bytes; a smaller file is hashed as fast as it is looked up
SETTLED_NS = 2 * 10**9  # a file changed later than this may change again within one tick


class HashMemory:
    """Remembers by device, inode, size and both times; ctime can't be set back by a program."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = read_json(path)
        except (OSError, ValueError):
            known = None
        self._known: dict[str, str] = known if isinstance(known, dict) else {}
        self._used: dict[str, str] = {}

    def md5(self, path: Path) -> str:
        """MD5 of a file."""
        at = path.stat()
        if at.st_size < BIG:
            return md5_of_file(path)
        key = f"{at.st_dev}:{at.st_ino}:{at.st_size}:{at.st_mtime_ns}:{at.st_ctime_ns}"
        md5 = self._used.get(key) or self._known.get(key) or md5_of_file(path)
        if time.time_ns() - max(at.st_mtime_ns, at.st_ctime_ns) > SETTLED_NS:
            self._used[key] = md5
        return md5

    def save(self) -> None:
        """Keep what was looked at; a folder that can't be written to only costs time."""
        if self._used.items() <= self._known.items():
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(self._known | self._used).encode())
        except OSError:
            pass

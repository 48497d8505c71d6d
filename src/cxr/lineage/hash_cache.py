"""Cache of the MD5s of large files."""

import json
import time
from pathlib import Path

from cxr.documents import read_json, write_atomically
from cxr.hashing import md5_of_file

BIG = 2**20  # bytes; smaller files are hashed as fast as they are looked up
SETTLED_NS = 2 * 10**9  # a file changed more recently may change again without a new time stamp


class HashCache:
    """Cache keyed by device, inode, size, mtime and ctime, which programs can't set back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = read_json(path)
        except (OSError, ValueError):
            known = None
        self._known: dict[str, str] = known if isinstance(known, dict) else {}
        self._used: dict[str, str] = {}

    def md5(self, path: Path, least: int = BIG) -> str:
        """MD5 of a file, remembered if it has at least that many bytes."""
        stat = path.stat()
        if stat.st_size < least:
            return md5_of_file(path)
        key = f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
        md5 = self._used.get(key) or self._known.get(key) or md5_of_file(path)
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED_NS:
            self._used[key] = md5
        return md5

    def save(self) -> None:
        """Save the cache; ignore a folder that can't be written to."""
        if self._used.items() <= self._known.items():
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(self._known | self._used).encode())
        except OSError:
            pass

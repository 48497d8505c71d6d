"""Locks between processes, also on file systems without file locks."""

import fcntl
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

__all__ = ["BaseFileLock", "Timeout", "acquire", "file_lock", "has_locks", "holder", "how_to_end"]

POLL_SECONDS = 0.5
SOFT = ".soft"  # suffix of a lock file whose existence is the lock


def file_lock(path: Path) -> BaseFileLock:
    """A lock on a file, also on a file system without locks (some NFS and Lustre mounts).

    Without locks, the existence of a separate file is the lock; filelock removes it if its process
    has ended on this machine.
    """
    return FileLock(path) if has_locks(path.parent) else SoftFileLock(f"{path}{SOFT}")


def has_locks(folder: Path) -> bool:
    """Whether the file system of a folder supports locks, tested with flock(2)."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def acquire(lock: BaseFileLock, *, blocking: bool = False) -> None:
    """Acquire a lock and write the holder into its file; `Timeout` if another process holds it."""
    lock.acquire(blocking=blocking, poll_interval=POLL_SECONDS)
    if isinstance(lock, FileLock):  # filelock writes a soft lock's file, in the same form
        Path(lock.lock_file).write_text(f"{os.getpid()}\n{socket.gethostname()}\n")


def holder(lock: BaseFileLock) -> str:
    """The process that holds a lock, for messages."""
    pid, host = _holder(lock)
    return f"process {pid}" if host == socket.gethostname() else f"process {pid} on {host}"


def how_to_end(lock: BaseFileLock) -> str:
    """What the user can do about a lock that another process holds."""
    pid, host = _holder(lock)
    if host == socket.gethostname():
        return f"wait for it, or stop it with `kill {pid}`"
    return f"wait for it, or delete {lock.lock_file} if it is no longer running"


def _holder(lock: BaseFileLock) -> tuple[str, str]:
    """Process id and machine; question marks until the holder has written them."""
    with suppress(OSError, ValueError):
        pid, host, *_ = Path(lock.lock_file).read_text().split()
        return pid, host
    return "?", "?"

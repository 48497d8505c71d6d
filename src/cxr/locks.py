"""Locks between processes, also on file systems without file locks."""

import fcntl
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from cxr.errors import CxrError

__all__ = [
    "BaseFileLock", "Timeout", "acquire", "exclusive", "file_lock", "has_locks", "holder",
    "taken_over",
]  # fmt: skip

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


@contextmanager
def exclusive(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock on a file; CxrError if another process does, which is `doing` the same."""
    lock = file_lock(path)
    try:
        acquire(lock)
    except Timeout:
        pid, host = _holder(lock)
        fix = f"stop it with `kill {pid}`"
        if host != socket.gethostname():
            fix = f"delete {lock.lock_file} if that process has ended"
        raise CxrError(f"{holder(lock)} is already {doing}; wait for it, or {fix}") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def taken_over(path: Path, patience: float) -> Iterator[int]:
    """Lock a file whose lock may be held by programs that outlived the process that started them.

    They are interrupted, and killed after `patience` seconds. Yields a descriptor of the file: a
    program that inherits it holds the lock, too. Write the program's group to it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                is_late = time.monotonic() > deadline
                with suppress(ValueError, ProcessLookupError):
                    group = int(os.pread(descriptor, 20, 0))
                    os.killpg(group, signal.SIGKILL if is_late else signal.SIGINT)
                time.sleep(1)
        yield descriptor
    finally:
        os.close(descriptor)


def _holder(lock: BaseFileLock) -> tuple[str, str]:
    """Process id and machine; question marks until the holder has written them."""
    with suppress(OSError, ValueError):
        pid, host, *_ = Path(lock.lock_file).read_text().split()
        return pid, host
    return "?", "?"

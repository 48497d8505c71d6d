"""Locks between processes, on file systems with and without file locks."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import SoftFileLock

from cxr import locks
from cxr.errors import CxrError
from cxr.locks import Timeout
from cxr.pipeline import scratch
from cxr.sweep import run

# Errors of flock(2) on NFS without a lock daemon, Lustre without `-o flock`, and others.
ERRNOS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]
HOLD = """
import fcntl, sys, time
from pathlib import Path
from cxr import locks

def refused(*_):
    raise OSError(int(sys.argv[2]), "no locks")

if int(sys.argv[2]):
    fcntl.flock = refused
lock = locks.file_lock(Path(sys.argv[1]))
locks.acquire(lock)
print("holds", flush=True)
time.sleep(60)
"""


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let `fcntl.flock` fail with this errno; 0 changes nothing."""

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if number:
        monkeypatch.setattr(fcntl, "flock", refused)


@contextmanager
def held(path: Path, number: int) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock."""
    command = [sys.executable, "-c", HOLD, str(path), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [0, *ERRNOS])
def test_a_second_process_waits_and_names_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    without_locks(monkeypatch, number)
    lock_path = tmp_path / "stage.lock"
    lock = locks.file_lock(lock_path)
    assert isinstance(lock, SoftFileLock) == bool(number)
    with held(lock_path, number) as first:
        with pytest.raises(Timeout):
            locks.acquire(lock)
        assert locks.holder(lock) == f"process {first.pid}"
        message = f"process {first.pid} is already at it; wait for it, or stop it with `kill"
        with pytest.raises(CxrError, match=message), locks.exclusive(lock_path, "at it"):
            pass


@pytest.mark.parametrize("number", [0, *ERRNOS])
def test_kill_9_releases_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    without_locks(monkeypatch, number)
    with held(tmp_path / "stage.lock", number) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        lock = locks.file_lock(tmp_path / "stage.lock")
        locks.acquire(lock)
    assert locks.holder(lock) == f"process {os.getpid()}"
    lock.release()


def test_a_lock_of_another_machine_names_the_machine_and_the_file_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is unknown whether a process on another machine is still running."""
    without_locks(monkeypatch, errno.ENOLCK)
    lock = locks.file_lock(scratch.folder_of(tmp_path) / "download.lock")
    Path(lock.lock_file).write_text("7\nnode3\n")
    with (
        pytest.raises(CxrError, match="process 7 on node3 is already running this stage") as caught,
        scratch.claimed(tmp_path, tmp_path, "download", "a" * 64, print),
    ):
        pass
    assert str(caught.value).endswith(f"delete {lock.lock_file} if that process has ended")
    Path(lock.lock_file).unlink()
    with scratch.claimed(tmp_path, tmp_path, "download", "a" * 64, print):
        pass


def test_an_empty_lock_file_does_not_block_on_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a clone copied from a local disk."""
    (tmp_path / "mlflow.db.lock").touch()
    without_locks(monkeypatch, errno.ENOLCK)
    with locks.file_lock(tmp_path / "mlflow.db.lock").acquire(blocking=False):
        pass


def test_a_sweep_is_refused_without_file_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, errno.ENOLCK)
    with pytest.raises(CxrError, match="no file locks, which a sweep needs"):
        run.run(None, tmp_path, print, print)  # type: ignore[arg-type]


def test_filelock_writes_the_host_name_of_this_machine(tmp_path: Path) -> None:
    with SoftFileLock(tmp_path / "lock") as lock:
        assert Path(lock.lock_file).read_text().split()[1] == socket.gethostname()


@pytest.mark.parametrize(
    ("ends_it", "patience"), [(signal.SIGINT, 60), (signal.SIGKILL, 0.5)], ids=["SIGINT", "SIGKILL"]
)
def test_a_lock_that_an_orphan_holds_is_taken_over(
    tmp_path: Path, ends_it: signal.Signals, patience: float
) -> None:
    """The orphan inherited the lock of a process that is gone; the second ignores interrupts."""
    handler = signal.SIG_DFL if ends_it == signal.SIGINT else signal.SIG_IGN
    with locks.taken_over(tmp_path / "clone.lock", 0) as lock:
        orphan = subprocess.Popen(
            ["sleep", "60"], pass_fds=[lock], process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
        )  # fmt: skip
        os.pwrite(lock, f"{orphan.pid:<20}".encode(), 0)
    with locks.taken_over(tmp_path / "clone.lock", patience):
        assert orphan.wait(10) == -ends_it

"""Runs one experiment in a clone of the working copy: the same on this machine and on a node."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import IO, Any

from dvc.config import Config

from cxr import git, params
from cxr.lineage.repository import EXPERIMENTS
from cxr.paths import PARAMS_FILE
from cxr.pipeline import scratch
from cxr.sweep.snapshot import Snapshot, check_out

STOP_SECONDS = 8.0  # for a checkpoint after an interrupt; then the programs are killed
POLL_SECONDS = 0.1
RETRY_DELAYS = (1, 5, 15, 30, 60)  # seconds between tries to reach the DVC remote
LOG_TAIL = 2**16  # bytes of a log in which the reason of a failure is looked for
ERROR = "ERROR: "  # DVC's prefix of an error message
FAILED_STAGE = re.compile(r"failed to reproduce '([\w-]+)'")


class Stopped(Exception):
    """The experiment was stopped; its progress is kept."""


@dataclass(frozen=True)
class Task:
    """An experiment, with all that a machine needs to run it."""

    snapshot: Snapshot
    name: str
    params: dict[str, Any]  # dotted names
    target: str  # the last stage
    config: bytes  # the user's .dvc/config.local


@dataclass(frozen=True)
class Site:
    """Where an experiment runs."""

    folder: Path  # of the clone; one experiment at a time
    project: Path  # its MLflow store, and progress from which experiments resume
    cache: Path  # of DVC
    uses_remote: bool  # whether files come and go through the DVC remote
    env: dict[str, str]


@dataclass(frozen=True)
class Ended:
    """An experiment that has ended."""

    failed: str | None  # the reason
    ref: str = ""  # as DVC names it
    commit: str = ""
    pack: bytes = b""  # the commit's objects that the user's repository lacks


@dataclass
class Control:
    """Runs programs for one experiment; another thread can suspend or stop them."""

    stopping: Event = field(default_factory=Event)
    _process: subprocess.Popen[bytes] | None = None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the running program and its children."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    def run(
        self, command: list[str], cwd: Path, env: dict[str, str], log: IO[bytes], lock: int
    ) -> int:
        """Run a program and return its exit status; Stopped if it was interrupted.

        Parameters
        ----------
        lock : descriptor of the lock file, which the program holds if this process is killed.
        """
        with subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, pass_fds=[lock],
            stderr=subprocess.STDOUT, process_group=0, preexec_fn=_accept_interrupts,
        ) as self._process:  # fmt: skip
            os.pwrite(lock, f"{self._process.pid:<20}".encode(), 0)
            killed_at = None
            while self._process.poll() is None:
                time.sleep(POLL_SECONDS)
                if self.stopping.is_set() and killed_at is None:
                    self.send(signal.SIGINT)
                    killed_at = time.monotonic() + STOP_SECONDS
                elif killed_at is not None and time.monotonic() > killed_at:
                    self.send(signal.SIGKILL)
        if self.stopping.is_set():
            raise Stopped
        return self._process.returncode


def run_experiment(task: Task, site: Site, log: Path, control: Control) -> Ended:
    """Run an experiment, and return its commit.

    Raises
    ------
    Stopped
        After `control.stopping` was set.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with _claimed(site.folder) as lock, open(log, "wb") as output:
        folder = check_out(task.snapshot, site.folder)
        _configure_dvc(folder, task, site)
        params.change(folder / PARAMS_FILE, task.params)
        env = _environment(site)

        def dvc(*arguments: str) -> int:
            return control.run([sys.executable, "-m", "dvc", *arguments], folder, env, output, lock)

        pull = ["--pull"] if site.uses_remote else []
        delays = iter(RETRY_DELAYS if site.uses_remote else ())
        while dvc("exp", "run", task.target, "--name", task.name, *pull) != 0:
            # A stage that fails would fail again; a remote may come back.
            delay = None if FAILED_STAGE.search(_tail(log)) else next(delays, None)
            if delay is None:
                return Ended(reason(_tail(log)))
            if control.stopping.wait(delay):
                raise Stopped
        scratch.remove_stale(site.project)
        if site.uses_remote:
            for delay in RETRY_DELAYS:
                if dvc("push", "--run-cache") == 0:
                    break
                if control.stopping.wait(delay):
                    raise Stopped
            else:
                return Ended(f"its files can't be pushed: {reason(_tail(log))}")
        head = task.snapshot.head
        ref = f"{EXPERIMENTS}/{head[:2]}/{head[2:]}/{task.name}"
        commit = git.run(site.folder, "rev-parse", ref).strip()
        pack = git.run(
            site.folder, "pack-objects", "-q", "--stdout", "--revs", "--thin",
            stdin=f"{commit}\n^{head}\n",
        )  # fmt: skip
        return Ended(None, ref, commit, pack.encode(errors="surrogateescape"))


def unpack(ended: Ended, root: Path) -> None:
    """Add an experiment's commit to the user's repository, without a name."""
    git.run(root, "unpack-objects", "-q", stdin=ended.pack.decode(errors="surrogateescape"))


def receive(ended: Ended, root: Path) -> None:
    """Add an experiment to the user's repository, where DVC lists it."""
    unpack(ended, root)
    git.run(root, "update-ref", ended.ref, ended.commit)


def reason(log: str) -> str:
    """The error message in a failed experiment's log: the stage's own, else DVC's."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    failed = next((match[1] for line in lines if (match := FAILED_STAGE.search(line))), None)
    of_stage = [line for line in lines if failed and line.startswith(f"{failed}: ")]
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (of_stage or errors or lines or ["its log is empty"])[-1]


@contextmanager
def _claimed(folder: Path) -> Iterator[int]:
    """Lock a clone, and interrupt an experiment that a killed sweep left running in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT)
    try:
        until, signum = time.monotonic() + STOP_SECONDS, signal.SIGINT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                with suppress(ValueError, ProcessLookupError):
                    os.killpg(int(os.pread(lock, 20, 0)), signum)
                if time.monotonic() > until:
                    signum = signal.SIGKILL
                time.sleep(1)
        yield lock
    finally:
        os.close(lock)


def _configure_dvc(folder: Path, task: Task, site: Site) -> None:
    (folder / ".dvc/config.local").write_bytes(task.config)
    with Config(str(folder / ".dvc")).edit("local") as config:
        config.setdefault("cache", {})["dir"] = str(site.cache)


def _environment(site: Site) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k not in git.HOOK_VARIABLES}
    # Stages look up `python` on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    project = {"PATH": path, scratch.PROJECT_VARIABLE: str(site.project)}
    return inherited | project | site.env


def _accept_interrupts() -> None:
    """Undo what a parent set (nohup, Ray), since an interrupt saves a checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _tail(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        return file.read().decode(errors="replace")

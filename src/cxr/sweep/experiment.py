"""Runs experiments in a clone of the working copy: the same on this machine and on a node."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import IO

from dvc.config import Config

from cxr import git, locks, params
from cxr.errors import CxrError
from cxr.lineage.snapshot import Packed, Snapshot, check_out, pack
from cxr.paths import PARAMS_FILE
from cxr.pipeline import scratch
from cxr.sweep.plan import Experiment

STOP_SECONDS = 8.0  # for a checkpoint after an interrupt; then the programs are killed
POLL_SECONDS = 0.1
RETRY_DELAYS = (1, 5, 15, 30, 60)  # seconds between tries to reach the DVC remote
ERROR = "ERROR: "  # DVC's prefix of an error message
FAILED_STAGE = re.compile(r"failed to reproduce '([\w-]+)'")


class Stopped(Exception):
    """The experiment was stopped; its progress is kept."""


class Lost(Exception):
    """A slot's process is gone, with its machine if `for_good`; the experiment must run again."""

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


class Site:
    """A clone in which experiments run, one at a time; another thread can suspend or stop them.

    Parameters
    ----------
    place : its name in messages.
    folder : of the clone.
    project : has the MLflow store, and the progress from which experiments resume.
    cache : of DVC, shared with the user; None for one of its own, and the DVC remote.
    env : environment variables.
    """

    def __init__(
        self, place: str, folder: Path, project: Path, cache: Path | None, env: dict[str, str]
    ) -> None:
        self.place, self.cache = place, cache
        self._folder, self._project = folder, project
        inherited = {k: v for k, v in os.environ.items() if k not in git.HOOK_VARIABLES}
        # Stages look up `python` on PATH.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = inherited | {"PATH": path, scratch.PROJECT_VARIABLE: str(project)} | env
        self._stopping = Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, snapshot: Snapshot, experiment: Experiment, log: Path) -> Packed:
        """Run an experiment, and return its commit.

        Raises
        ------
        CxrError
            With the reason, if the experiment failed.
        Stopped
            After `stop`.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        lock_file = self._folder.with_name(f"{self._folder.name}.lock")
        # An experiment that a killed sweep left running is stopped first.
        with locks.taken_over(lock_file, STOP_SECONDS) as lock, open(log, "wb") as output:
            folder = check_out(snapshot, self._folder)
            with Config(str(folder / ".dvc")).edit("local") as config:
                config.setdefault("cache", {})["dir"] = str(self.cache or self._project / "cache")
            params.change(folder / PARAMS_FILE, experiment.params)

            def dvc(*arguments: str) -> bool:
                return self._execute(["-m", "dvc", *arguments], folder, output, lock)

            call = ["exp", "run", experiment.target, "--name", experiment.name]
            if self.cache is None:
                call.append("--pull")
            for _ in tries(self._stopping):
                is_done, printed = dvc(*call), log.read_text(errors="replace")
                # A remote may come back; a stage that fails would fail again.
                if is_done or self.cache or FAILED_STAGE.search(printed):
                    break
            if not is_done:
                raise CxrError(reason(printed))
            scratch.remove_stale(self._project)
            pushes = (dvc("push", "--run-cache") for _ in tries(self._stopping))
            if self.cache is None and not any(pushes):
                printed = log.read_text(errors="replace")
                raise CxrError(f"its files can't be pushed: {reason(printed)}")
            return pack(experiment.name, snapshot.head, self._folder)

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the running program and its children."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    def stop(self) -> None:
        """Interrupt the running experiment."""
        self._stopping.set()

    def _execute(self, arguments: list[str], folder: Path, log: IO[bytes], lock: int) -> bool:
        """Run Python, and return whether it succeeded; it holds the lock if this process dies."""
        with subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=self.env, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, pass_fds=[lock], process_group=0,
            preexec_fn=_accept_interrupts,
        ) as self._process:  # fmt: skip
            os.pwrite(lock, f"{self._process.pid:<20}".encode(), 0)
            killed_at = None
            while self._process.poll() is None:
                time.sleep(POLL_SECONDS)
                if self._stopping.is_set() and killed_at is None:
                    self.send(signal.SIGINT)
                    killed_at = time.monotonic() + STOP_SECONDS
                elif killed_at is not None and time.monotonic() > killed_at:
                    self.send(signal.SIGKILL)
        if self._stopping.is_set():
            raise Stopped
        return self._process.returncode == 0


def tries(stopping: Event) -> Iterator[None]:
    """Once, and again after each of RETRY_DELAYS; Stopped if `stopping` is set meanwhile."""
    yield
    for delay in RETRY_DELAYS:
        if stopping.wait(delay):
            raise Stopped
        yield


def reason(log: str) -> str:
    """The error message in a failed experiment's log: the stage's own, else DVC's."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    failed = next((match[1] for line in lines if (match := FAILED_STAGE.search(line))), None)
    of_stage = [line for line in lines if failed and line.startswith(f"{failed}: ")]
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (of_stage or errors or lines or ["its log is empty"])[-1]


def _accept_interrupts() -> None:
    """Undo what a parent set (nohup, Ray), since an interrupt saves a checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

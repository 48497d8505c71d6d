"""DVC's queue of experiments: its tasks, and the commands that change it.

The queue is read in this process, because each `dvc queue status` would take two seconds of a core
that the experiments need. It is changed with DVC's own commands.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from cxr import signals
from cxr.errors import CxrError
from cxr.sweep.plan import Experiment

TRIES, TRY_SECONDS = 5, 0.2
ERROR = "ERROR: "  # DVC's prefix of an error message
BEFORE_QUOTE = re.compile(r"(\\+)(?='|\Z)")  # backslashes that a quote will follow
FAILED_STAGE = re.compile(r"failed to reproduce '([\w-]+)'")


class State(StrEnum):
    """A task's state, in DVC's words."""

    QUEUED = "Queued"
    RUNNING = "Running"
    FAILED = "Failed"
    SUCCESS = "Success"


@dataclass(frozen=True)
class Task:
    """An experiment in DVC's queue."""

    name: str
    state: State
    revision: str  # DVC's name for the task


class Queue:
    """The queue of one clone."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def tasks(self) -> dict[str, Task]:
        """All tasks by experiment name; of two with one name the unfinished one."""
        from dvc.exceptions import DvcException

        celery = self._celery
        for n in range(TRIES):
            try:
                # Queued ones first: one that a worker takes in between is then in both lists.
                queued = list(celery.iter_queued())
                listings = {
                    State.RUNNING: list(celery.iter_active()),
                    State.QUEUED: queued,
                    State.FAILED: [each.entry for each in celery.iter_failed()],
                    State.SUCCESS: [each.entry for each in celery.iter_success()],
                }
                break
            except (DvcException, ValueError, OSError) as error:
                # A worker may be writing the files that are read here.
                if n == TRIES - 1:
                    raise CxrError(f"DVC's queue can't be read: {error}") from None
                time.sleep(TRY_SECONDS)
        tasks: dict[str, Task] = {}
        for state, entries in listings.items():
            for each in entries:
                name = each.name or each.stash_rev[:7]
                tasks.setdefault(name, Task(name, state, each.stash_rev))
        return tasks

    def is_alive(self, task: Task) -> bool:
        """Whether the process of a running task is alive."""
        process = self._celery.proc.get(task.revision)
        if process is None:
            return False
        try:  # after a power failure another program may have its process id
            return task.revision in Path(f"/proc/{process.pid}/cmdline").read_text()
        except OSError:
            return False

    def add(self, experiment: Experiment, target: str) -> None:
        """Queue an experiment on the current working copy, up to the stage `target`."""
        command = ["exp", "run", target, "--queue", "--name", experiment.name]
        for key, value in experiment.params.items():
            command += ["--set-param", f"{key}={override(value)}"]
        self._dvc(*command)

    def start(self, jobs: int) -> None:
        """Start workers until `jobs` of them run."""
        self._dvc("queue", "start", "--jobs", str(jobs))

    def remove(self, names: list[str]) -> None:
        """Remove tasks that are not running from the queue."""
        if names:
            self._dvc("queue", "remove", *names)

    def interrupt(self, names: list[str]) -> None:
        """Interrupt running tasks as Ctrl-C does, so that they can resume."""
        if names:
            self._dvc("queue", "kill", *names)

    def send(self, task: Task, signum: signal.Signals) -> None:
        """Send a signal to the task's processes and the worker that waits for them."""
        process = self._celery.proc.get(task.revision)
        if process is not None and self.is_alive(task):
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(process.pid), signum)

    def drop(self, task: Task) -> bool:
        """Remove a task whose process is dead; False if a worker reports it as running."""
        from dvc.repo.experiments.queue.exceptions import CannotKillTasksError

        # Not with `dvc queue kill`: another program may have the process id now.
        entries = self._celery.iter_active()
        dead = {each: task.name for each in entries if each.stash_rev == task.revision}
        try:
            self._celery._mark_inactive_tasks_failure(dead)
        except CannotKillTasksError:
            return False
        self.remove([task.name])
        return True

    def why_failed(self, name: str) -> str:
        """Why a task failed, from its log."""
        try:
            return reason(self._dvc("queue", "logs", name))
        except CxrError as error:
            return str(error)

    @cached_property
    def _celery(self) -> Any:
        from dvc.repo import Repo

        return Repo(str(self.root)).experiments.celery_queue

    def _dvc(self, *arguments: str) -> str:
        """Run a DVC command and return its output; CxrError with DVC's message if it fails."""
        python = Path(sys.executable)
        # Workers look up `dvc` on PATH, and stages `python`.
        env = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        # A file, because workers outlive the command and would keep a pipe open. Its own session
        # and delayed signals, because the command stashes and restores the working copy's changes.
        with tempfile.TemporaryFile("w+") as output, signals.delayed():
            process = subprocess.Popen(
                [python, "-m", "dvc", *arguments], cwd=self.root, env=env, text=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            status = process.wait()
            output.seek(0)
            printed = output.read()
        if status != 0:
            lines = [line for line in printed.splitlines() if line.strip()]
            errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
            message = (errors or lines or ["no reason given"])[-1]
            raise CxrError(f"`dvc {' '.join(arguments[:2])}` failed: {message}")
        return printed


def reason(log: str) -> str:
    """The error message in a failed task's log: the stage's own, else DVC's."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    failed = next((match[1] for line in lines if (match := FAILED_STAGE.search(line))), None)
    of_stage = [line for line in lines if failed and line.startswith(f"{failed}: ")]
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (of_stage or errors or lines or ["its log is empty"])[-1]


def override(value: Any) -> str:
    """A value in the syntax of `dvc exp run --set-param`, which is Hydra's."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(override, value))}]"
    # Hydra reads a backslash literally, except before a quote.
    quoted = BEFORE_QUOTE.sub(r"\1\1", str(value)).replace("'", "\\'")
    return f"'{quoted}'"

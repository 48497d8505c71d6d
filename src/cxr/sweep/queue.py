"""DVC's queue of experiments: what stands in it, and the commands that change it.

It is read inside this process, since every `dvc queue status` would take two seconds of a core that
the experiments need; it is changed by DVC's own commands.
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
ERROR = "ERROR: "  # how DVC begins the line that says what went wrong
BEFORE_QUOTE = re.compile(r"(\\+)(?='|\Z)")  # backslashes, in a text that gets quotes around it
FAILED_STAGE = re.compile(r"failed to reproduce '([\w-]+)'")


class State(StrEnum):
    """Of a task, as DVC calls it."""

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
        """All tasks by the experiment's name; of two of one name the one that is not over."""
        from dvc.exceptions import DvcException

        for n in range(TRIES):
            try:
                found = self._celery.status()
                break
            except (DvcException, ValueError, OSError) as error:
                # A worker may be at writing what is read here.
                if n == TRIES - 1:
                    raise CxrError(f"DVC's queue can't be read: {error}") from None
                time.sleep(TRY_SECONDS)
        tasks: dict[str, Task] = {}
        for each in found:  # what runs and waits comes first
            name = each["name"] or each["rev"][:7]
            tasks.setdefault(name, Task(name, State(each["status"]), each["rev"]))
        return tasks

    def is_alive(self, task: Task) -> bool:
        """Whether a process works on a running task."""
        process = self._celery.proc.get(task.revision)
        if process is None:
            return False
        try:  # after a power failure another program may have the number
            return task.revision in Path(f"/proc/{process.pid}/cmdline").read_text()
        except OSError:
            return False

    def add(self, experiment: Experiment) -> None:
        """Queue an experiment on the working copy as it stands."""
        command = ["exp", "run", "--queue", "--name", experiment.name]
        for key, value in experiment.params.items():
            command += ["--set-param", f"{key}={override(value)}"]
        self._dvc(*command)

    def start(self, jobs: int) -> None:
        """Let so many workers run; those that run already count."""
        self._dvc("queue", "start", "--jobs", str(jobs))

    def remove(self, names: list[str]) -> None:
        """Take tasks that do not run out of the queue."""
        if names:
            self._dvc("queue", "remove", *names)

    def interrupt(self, names: list[str]) -> None:
        """Let running tasks stop where they can go on, as by Ctrl-C."""
        if names:
            self._dvc("queue", "kill", *names)

    def send(self, task: Task, signum: signal.Signals) -> None:
        """Send a signal to what works on a task, and to the worker that waits for it."""
        process = self._celery.proc.get(task.revision)
        if process is not None and self.is_alive(task):
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(process.pid), signum)

    def drop(self, task: Task) -> bool:
        """Take out a task on which nothing works any more; False where a worker says it does."""
        from dvc.repo.experiments.queue.exceptions import CannotKillTasksError

        # Not by `dvc queue kill`: the number of its process may be another program's now.
        entries = self._celery.iter_active()
        mine = {each: task.name for each in entries if each.stash_rev == task.revision}
        try:
            self._celery._mark_inactive_tasks_failure(mine)
        except CannotKillTasksError:
            return False
        self.remove([task.name])
        return True

    def why_failed(self, name: str) -> str:
        """What a failed task's log says of the reason."""
        try:
            return reason(self._dvc("queue", "logs", name))
        except CxrError as error:
            return str(error)

    @cached_property
    def _celery(self) -> Any:
        from dvc.repo import Repo

        return Repo(str(self.root)).experiments.celery_queue

    def _dvc(self, *arguments: str) -> str:
        """What a DVC command prints; CxrError with DVC's own line where it fails."""
        python = Path(sys.executable)
        # Workers find `dvc`, and the stages `python`, by it.
        env = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        # A file, since workers outlive the command and would hold a pipe open. A session of its
        # own, and no signal before it is over: it moves the working copy's changes away and back.
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
            said = (errors or lines or ["no reason given"])[-1]
            raise CxrError(f"`dvc {' '.join(arguments[:2])}` failed: {said}")
        return printed


def reason(log: str) -> str:
    """The line of a task's log that says why it failed: the stage's own, else DVC's."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    failed = next((found[1] for line in lines if (found := FAILED_STAGE.search(line))), None)
    of_stage = [line for line in lines if failed and line.startswith(f"{failed}: ")]
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (of_stage or errors or lines or ["it left no word"])[-1]


def override(value: Any) -> str:
    """A value in the grammar that `dvc exp run --set-param` reads, Hydra's."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(override, value))}]"
    # A backslash is one, unless a quote follows it.
    quoted = BEFORE_QUOTE.sub(r"\1\1", str(value)).replace("'", "\\'")
    return f"'{quoted}'"

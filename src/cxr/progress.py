"""Progress of long work: a bar in a terminal, plain lines elsewhere."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cxr.errors import shown, without_passwords


class _PipeTolerantConsole(Console):
    """A console that continues after a broken pipe, where rich's own exits."""

    def on_broken_pipe(self) -> None:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self.file.fileno())
        os.close(devnull)


QUIET = "CXR_QUIET"  # an environment variable, so that stages started by a command see it

console = _PipeTolerantConsole(soft_wrap=True, highlight=False)
stderr_console = _PipeTolerantConsole(
    stderr=True, highlight=False
)  # for commands that print results to stdout
log = logging.getLogger("cxr")

Say = Callable[[str], None]  # prints a line


class Advance(Protocol):
    """Updates a progress bar."""

    def __call__(self, done: int, total: int) -> None: ...


def be_quiet() -> None:
    """Hide progress and notes, in this process and in stages that it starts."""
    os.environ[QUIET] = "1"


def is_quiet() -> bool:
    """Whether progress and notes are hidden."""
    return bool(os.environ.get(QUIET))


def say(line: str) -> None:
    """Print a line of progress, above the bar if one is shown."""
    if not is_quiet():
        console.print(shown(line), markup=False)
    log.info(line)


def note(line: str) -> None:
    """Print a warning to stderr."""
    if not is_quiet():
        with suppress(OSError):
            print(shown(line), file=sys.stderr, flush=True)
    log.info(line)


class _Formatter(logging.Formatter):
    """Hides passwords, since libraries log URLs too."""

    def format(self, record: logging.LogRecord) -> str:
        return without_passwords(super().format(record))


class _SilentFileHandler(logging.FileHandler):
    """Drops lines without a traceback if the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append what is printed, and what libraries log, to a file."""
    handler = _SilentFileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(_Formatter("%(asctime)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@contextmanager
def bar(title: str, on: Console = console) -> Iterator[Advance]:
    """A progress bar that disappears when the work is done; hidden without a terminal.

    Until the first update it is indeterminate and shows the elapsed time.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    is_shown = on.is_terminal and not is_quiet()
    with Progress(*columns, console=on, transient=True, disable=not is_shown) as p:
        task = p.add_task(title, total=None)

        def advance(done: int, total: int) -> None:
            p.update(task, completed=done, total=total)

        yield advance


@contextmanager
def steps(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar for `total` steps; call the yielded function after each."""
    done = 0
    with bar(title) as advance:

        def step() -> None:
            nonlocal done
            done += 1
            advance(done, total)

        yield step

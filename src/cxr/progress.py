"""Progress of long work: a bar at a terminal, plain lines elsewhere."""

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


class _Unheard(Console):
    """A console that goes on when nobody reads it any more; rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


QUIET = "CXR_QUIET"  # tells the stages that a command starts, too

console = _Unheard(soft_wrap=True, highlight=False)
stderr_console = _Unheard(stderr=True, highlight=False)  # where stdout is for an answer
log = logging.getLogger("cxr")


class Advance(Protocol):
    """Tells a bar how much is done, of how much."""

    def __call__(self, done: int, total: int) -> None: ...


def be_quiet() -> None:
    """Show no progress and no notes, here and in the stages that are started from here."""
    os.environ[QUIET] = "1"


def is_quiet() -> bool:
    """Whether only answers and errors are asked for."""
    return bool(os.environ.get(QUIET))


def say(line: str) -> None:
    """One line for the person who watches; above the bar where there is one."""
    if not is_quiet():
        console.print(shown(line), markup=False)
    log.info(line)


def note(line: str) -> None:
    """What is not as it should be, and stops nothing."""
    if not is_quiet():
        with suppress(OSError):
            print(shown(line), file=sys.stderr, flush=True)
    log.info(line)


class _Formatter(logging.Formatter):
    """Libraries log addresses, too."""

    def format(self, record: logging.LogRecord) -> str:
        return without_passwords(super().format(record))


class _Quiet(logging.FileHandler):
    """A full disk costs lines of a log, and no traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Keep what is said, and what libraries log, in a file; it goes on with an earlier one."""
    handler = _Quiet(path, encoding="utf-8", delay=True)
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
    """A progress bar, gone when the work is; nothing at all where no terminal is.

    Until it is told how much there is to do, it shows that the work goes on, and for how long.
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
    """A bar for work of so many steps, each of which is told when it is done."""
    done = 0
    with bar(title) as advance:

        def step() -> None:
            nonlocal done
            done += 1
            advance(done, total)

        yield step

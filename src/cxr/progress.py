"""How long work shows that it goes on: a bar at a terminal, plain lines elsewhere."""

import logging
import os
import sys
from collections.abc import Iterator
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

from cxr.errors import shown


class _Unheard(Console):
    """A console that goes on when nobody reads it any more; rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


console = _Unheard(soft_wrap=True, highlight=False)
log = logging.getLogger("cxr")


class Advance(Protocol):
    """Tells a bar how much is done, of how much."""

    def __call__(self, done: int, total: int) -> None: ...


def say(line: str) -> None:
    """One line for the person who watches; above the bar where there is one."""
    console.print(shown(line), markup=False)
    log.info(line)


def note(line: str) -> None:
    """What is not as it should be, and stops nothing."""
    with suppress(OSError):
        print(shown(line), file=sys.stderr, flush=True)
    log.info(line)


class _Quiet(logging.FileHandler):
    """A full disk costs lines of a log, and no traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Keep what is said, and what libraries log, in a file; it goes on with an earlier one."""
    handler = _Quiet(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@contextmanager
def bar(title: str) -> Iterator[Advance]:
    """A progress bar, gone when the work is; nothing at all where no terminal is."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as p:
        task = p.add_task(title, total=None)

        def advance(done: int, total: int) -> None:
            p.update(task, completed=done, total=total)

        yield advance

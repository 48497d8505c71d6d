"""How long work shows that it goes on: a bar at a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
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

console = Console(soft_wrap=True, highlight=False)


class Advance(Protocol):
    """Tells a bar how much is done, of how much."""

    def __call__(self, done: int, total: int) -> None: ...


def say(line: str) -> None:
    """One line for the person who watches; above the bar where there is one."""
    console.print(line, markup=False)


@contextmanager
def bar(title: str) -> Iterator[Advance]:
    """A progress bar, gone when the work is; nothing at all where no terminal is."""
    columns = (
        TextColumn("{task.description}"),
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

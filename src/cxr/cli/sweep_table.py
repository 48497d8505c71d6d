"""Prints a sweep: what it will run, and its ranked configurations."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cxr import progress
from cxr.cli.terminal import console
from cxr.errors import shown as printable
from cxr.evaluation.intervals import LEVEL
from cxr.formatting import count, duration, interval, number, signed
from cxr.progress import Say
from cxr.sweep.plan import EXPLAINED, Plan
from cxr.sweep.ranking import Best, Row, table
from cxr.sweep.results import FOLDER, log_of
from cxr.sweep.run import Answer
from cxr.sweep.runner import Show, State
from cxr.sweep.space import shown, text

MOST_LINES, MOST_FAILED = 20, 3  # of the live table

COLUMNS = (
    "validation (mean ± sd)",
    f"{LEVEL:.0%} CI over seeds",
    "test (not for selection)",
    f"{LEVEL:.0%} CI of test",
)


def headline(plan: Plan, done: Collection[str]) -> str:
    """One line on the size of the sweep and how much is done."""
    configurations = count(len(plan.configurations), "configuration")
    experiments = count(len(plan.experiments), "experiment")
    first, last = plan.seeds[0], plan.seeds[-1]
    seeds = f"seed {first}" if len(plan.seeds) == 1 else f"seeds {first} to {last}"
    line = f"{configurations}, {seeds}: {experiments}, {len(done)} of them done"
    if plan.threads != plan.threads_of_params:
        line += f"; threads is {plan.threads} instead of {plan.threads_of_params}, " + (
            "as --cpus says" if plan.place.cpus else "because parallel experiments share cores"
        )
    return line


def plan(plan: Plan, done: Collection[str]) -> None:
    """Print the experiments that would run."""
    table = Table(box=None, pad_edge=False)
    for column in (*plan.configurations[0], "seed", "experiment", ""):
        table.add_column(Text(column))
    for each in plan.experiments:
        values = [Text(text(value)) for value in each.configuration.values()]
        state = "done" if each.name in done else "to run"
        table.add_row(*values, str(each.seed), Text(each.name), state)
    console.print(table)
    console.print(Text(headline(plan, done)))


@contextmanager
def live(say: Say) -> Iterator[tuple[Say, Show]]:
    """A table of the running sweep below its lines, if stderr is a terminal."""
    screen = progress.stderr_console
    if not screen.is_terminal or progress.is_quiet():
        yield say, lambda state: None
        return
    with Live(console=screen, transient=True, auto_refresh=False) as display:

        def print_above(line: str) -> None:
            display.console.print(Text(printable(line)))

        yield print_above, lambda state: display.update(progress_of(state), refresh=True)


def progress_of(state: State) -> Group:
    """What runs where, what failed and why, the time left and the best so far."""
    running = Table(box=None, pad_edge=False)
    for column in ("running", "configuration", "seed", "on", "for"):
        running.add_column(column, overflow="ellipsis", no_wrap=True)
    for each in list(state.running.values())[:MOST_LINES]:
        one, seconds = each.experiment, time.monotonic() - each.since
        cells = (one.name, shown(one.configuration), str(one.seed), each.slot.place)
        running.add_row(*map(Text, cells), duration(seconds))
    n_ended = len(state.outcomes) + len(state.failed)
    line = f"{n_ended} of {len(state.plan.experiments)} ended, {len(state.failed)} failed"
    if more := len(state.running) - MOST_LINES:
        line += f", {more} more running" if more > 0 else ""
    if state.seconds_left is not None:
        line += f", about {duration(state.seconds_left)} left"
    lines = [f"{name} failed: {why}" for name, why in list(state.failed.items())[-MOST_FAILED:]]
    for best in table(state.plan, state.outcomes).best:
        settings = ", ".join(f"{key}={text(value)}" for key, value in best.row.params.items())
        lines.append(f"best {best.row.model} so far: {number(best.row.val.mean)}, {settings}")
    rows = [Text(printable(each), no_wrap=True, overflow="ellipsis") for each in (line, *lines)]
    return Group(running, *rows)


def answer(answer: Answer) -> None:
    """Print the configurations of each model, best first, and how far the best one leads."""
    keys, n_seeds = answer.plan.keys, len(answer.plan.seeds)
    table = Table(box=None, pad_edge=False)
    for column in ("", *keys):
        table.add_column(Text(column))
    for column in COLUMNS:
        table.add_column(Text(column), justify="right")
    table.add_column("experiments")
    best = [each.row for each in answer.table.best]
    for row in answer.table.rows:
        style = "bold" if row in best else ""
        values = [text(row.params[key]) if key in row.params else "" for key in keys]
        cells = [row.model, *values, *_numbers(row), _experiments(row, n_seeds)]
        table.add_row(*(Text(cell, style=style) for cell in cells))
    console.print(table)
    console.print(
        f"macro AUROC over {count(n_seeds, 'seed')}; the best is chosen on validation only"
    )
    for each in answer.table.best:
        for line in _verdict(each, has_maps=answer.plan.experiments[0].target == EXPLAINED):
            console.print(Text(line))
    if answer.failed:
        failed = count(len(answer.failed), "experiment")
        console.print(Text(f"{failed} failed; repeat the command to retry:"))
    for name, reason in answer.failed.items():
        console.print(Text(f"{name}: {reason}  → {log_of(answer.plan.name, name)}"))
    console.print(Text(f"saved to {FOLDER}/{answer.plan.name}.json and .csv"))


def _numbers(row: Row) -> list[str]:
    val = row.val
    sd = "" if val.sd is None else f" ± {number(val.sd)}"
    return [number(val.mean) + sd, interval(val.ci), number(row.test), interval(row.test_ci)]


def _experiments(row: Row, n_seeds: int) -> str:
    """The name of the first experiment, and how many are done unless all are."""
    first = row.experiments[0]
    if row.done < n_seeds:
        return f"{first} …, {row.done} of {n_seeds} done"
    return first + (" …" if n_seeds > 1 else "")


def _verdict(best: Best, has_maps: bool) -> list[str]:
    """The best configuration, its lead over the second, and how to apply it."""
    row = best.row
    settings = ", ".join(f"{key}={text(value)}" for key, value in row.params.items())
    lines = [f"{row.model}: best is {settings}"]
    if best.difference == 0:
        lines[0] += "; the second is equally good"
    elif best.difference is not None:
        ci = f" [{signed(best.ci[0])}, {signed(best.ci[1])}]" if best.ci else ""
        lines[0] += f", {signed(best.difference)}{ci} compared with the second"
        if best.doubt:
            lines[0] += f": {best.doubt}, so the second may be as good"
    lines.append(f"  apply it with  dvc exp apply {best.experiment}")
    if not has_maps:
        lines.append("  its heat maps do not exist yet; make them with  dvc repro")
    return lines

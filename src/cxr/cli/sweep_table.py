"""A sweep as people read it at a terminal: what it will run, and its configurations ranked."""

from collections.abc import Collection

from rich.table import Table
from rich.text import Text

from cxr.cli.terminal import console
from cxr.evaluation.intervals import LEVEL
from cxr.formatting import interval, number, signed
from cxr.sweep import FOLDER, Answer
from cxr.sweep.plan import Plan
from cxr.sweep.ranking import Best, Row
from cxr.sweep.space import text

COLUMNS = (
    "validation (mean ± sd)",
    f"{LEVEL:.0%} over seeds",
    "test (not for choosing)",
    f"{LEVEL:.0%} of test",
)


def headline(plan: Plan, done: Collection[str]) -> str:
    """How much there is to do, in a line."""
    n, n_seeds, total = len(plan.configurations), len(plan.seeds), len(plan.experiments)
    seeds = (
        f"seed {plan.seeds[0]}" if n_seeds == 1 else f"seeds {plan.seeds[0]} to {plan.seeds[-1]}"
    )
    configurations = f"{n} configuration{'s' if n > 1 else ''}"
    line = f"{configurations}, {seeds}: {total} experiments, {len(done)} of them done"
    if plan.threads != plan.threads_of_params:
        line += (
            f"; threads {plan.threads} instead of {plan.threads_of_params}, since {plan.jobs} at a "
            "time share the cores"
        )
    return line


def plan(plan: Plan, done: Collection[str]) -> None:
    """What would be queued."""
    table = Table(box=None, pad_edge=False)
    for column in (*plan.configurations[0], "seed", "experiment", ""):
        table.add_column(Text(column))
    for each in plan.experiments:
        values = [Text(text(value)) for value in each.configuration.values()]
        state = "done" if each.name in done else "to run"
        table.add_row(*values, str(each.seed), Text(each.name), state)
    console.print(table)
    console.print(Text(headline(plan, done)))


def answer(answer: Answer) -> None:
    """The configurations of each model, the best first, and what the best is worth."""
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
        f"macro AUROC over {n_seeds} seed{'s' if n_seeds > 1 else ''}; the best is chosen by "
        "validation alone"
    )
    for each in answer.table.best:
        for line in _verdict(each):
            console.print(Text(line))
    if answer.failed:
        console.print(Text(f"{len(answer.failed)} failed, and the same command tries them again:"))
    for name, reason in answer.failed.items():
        console.print(Text(f"{name}: {reason}  → dvc queue logs {name}"))
    console.print(Text(f"kept in {FOLDER}/{answer.plan.name}.json and .csv"))


def _numbers(row: Row) -> list[str]:
    val = row.val
    sd = "" if val.sd is None else f" ± {number(val.sd)}"
    return [number(val.mean) + sd, interval(val.ci), number(row.test), interval(row.test_ci)]


def _experiments(row: Row, n_seeds: int) -> str:
    """The first one's name, and how many follow; or how many of them are there."""
    first = row.experiments[0]
    if row.done < n_seeds:
        return f"{first} …, {row.done} of {n_seeds} done"
    return first + (" …" if n_seeds > 1 else "")


def _verdict(best: Best) -> list[str]:
    """What was chosen, how far it is ahead, and how to take it."""
    row = best.row
    settings = ", ".join(f"{key}={text(value)}" for key, value in row.params.items())
    lines = [f"{row.model}: best is {settings}"]
    if best.difference == 0:
        lines[0] += ", and the second is as good"
    elif best.difference is not None:
        ci = f" [{signed(best.ci[0])}, {signed(best.ci[1])}]" if best.ci else ""
        lines[0] += f", {signed(best.difference)}{ci} against the second"
        if best.doubt:
            lines[0] += f": {best.doubt}, so the second may be as good"
    lines.append(f"  take it with  dvc exp apply {best.experiment}")
    return lines

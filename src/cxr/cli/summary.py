"""What a run of the pipeline did, as people read it."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from cxr.cli.terminal import console
from cxr.formatting import number
from cxr.paths import EVALUATION, METRICS, SAMPLES, SIDE_BY_SIDE
from cxr.pipeline.repro import Outcome, StageResult, Summary

# Where to look, and what is there.
PLACES = {
    f"{EVALUATION}/auroc.png": "the models over each other, finding by finding",
    f"{SIDE_BY_SIDE}/": "where they look",
    METRICS: 'every number, beside what "no" for everything scores',
    SAMPLES: "the images",
}


def summary(done: Summary, folder: Path, of_demo: bool = False) -> None:
    """A line a stage, the models' scores beside those of learning nothing, and where to look."""
    told = [
        each
        for each in done.stages
        if done.status == 0 or each.how in (Outcome.RAN, Outcome.RESTORED)
    ]
    if told:
        console.print()
        console.print(_stages(told))
    if done.status != 0:
        return
    if done.scores:
        console.print()
        console.print(_scores(done))
    there = {place: what for place, what in PLACES.items() if (folder / place).exists()}
    console.print(f"\nLook at, in {folder}," if there else "", markup=False)
    table = Table.grid(padding=(0, 2))
    for place, what in there.items():
        table.add_row("", Text(place), what)
    table.add_row("", f"make report{' DEMO=1' * of_demo}", "all of it on one page")
    table.add_row("", f"make ui{' DEMO=1' * of_demo}", "every run, curve and picture")
    table.add_row(
        "", f"{'cd .demo && ' * of_demo}cxr audit", "what made each, and whether it holds"
    )
    console.print(table)


def _stages(stages: list[StageResult]) -> Table:
    table = Table.grid(padding=(0, 2))
    for each in stages:
        style = "bold" if each.how is Outcome.RAN else "" if each.how is Outcome.RESTORED else "dim"
        table.add_row(each.stage, Text(each.how, style=style), Text(_when(each), style="dim"))
    return table


def _when(each: StageResult) -> str:
    if each.seconds is not None:
        minutes, seconds = divmod(each.seconds, 60)
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"of {each.made[:16].replace('T', ' ')} UTC" if each.made else ""


def _scores(done: Summary) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(Text(f"{done.data}{' (PHANTOM)' * done.is_phantom}"))
    for column in ("val macro AUROC", "test macro AUROC"):
        table.add_column(column, justify="right")
    for name, score in done.scores.items():
        table.add_row(Text(name), *map(number, (score.val, score.test)))
    return table

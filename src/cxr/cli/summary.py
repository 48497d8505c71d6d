"""Prints the summary of a pipeline run."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from cxr.cli.terminal import console
from cxr.formatting import number, widest_gap
from cxr.paths import EVALUATION, METRICS, SAMPLES, SIDE_BY_SIDE
from cxr.pipeline.repro import Outcome, StageResult, Summary

RESULTS = {  # path to description
    f"{EVALUATION}/auroc.png": "AUROC of all models, finding by finding",
    f"{SIDE_BY_SIDE}/": "attribution maps of all models, side by side",
    METRICS: "all metrics, next to trivial baselines",
    SAMPLES: "sample images",
}


def summary(done: Summary, folder: Path, of_demo: bool = False) -> None:
    """Print one line per stage, the scores of models and baselines, and the results' paths."""
    stages = [
        each
        for each in done.stages
        if done.status == 0 or each.how in (Outcome.RAN, Outcome.RESTORED)
    ]
    if stages:
        console.print()
        console.print(_stages(stages))
    if done.status != 0:
        return
    if done.scores:
        console.print()
        console.print(_scores(done))
        for model, gap in done.gaps.items():
            console.print(Text(f"{model}: {widest_gap(gap, done.attributes)}"))
    results = {path: text for path, text in RESULTS.items() if (folder / path).exists()}
    console.print(f"\nResults in {folder}:" if results else "", markup=False)
    table = Table.grid(padding=(0, 2))
    for path, text in results.items():
        table.add_row("", Text(path), text)
    table.add_row("", f"make report{' DEMO=1' * of_demo}", "all results on one page")
    table.add_row("", f"make ui{' DEMO=1' * of_demo}", "all runs, curves and figures in MLflow")
    table.add_row("", f"{'cd .demo && ' * of_demo}cxr audit", "trace and verify all results")
    console.print(table)
    if of_demo:
        console.print("\nTo train on your own X-rays, start with:  cxr table FILE --images FOLDER")


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
    return f"made {each.made[:16].replace('T', ' ')} UTC" if each.made else ""


def _scores(done: Summary) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(Text(f"{done.data}{' (PHANTOM)' * done.is_phantom}"))
    for column in ("val macro AUROC", "test macro AUROC"):
        table.add_column(column, justify="right")
    for name, score in done.scores.items():
        table.add_row(Text(name), *map(number, (score.val, score.test)))
    return table

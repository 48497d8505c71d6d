"""Commands that run the pipeline and check what it needs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cxr import progress
from cxr.cli import completion
from cxr.cli.app import Json, app, print_json, project
from cxr.cli.completion import RUN
from cxr.errors import CxrError
from cxr.paths import PARAMS_FILE
from cxr.pipeline import demo as demo_clone
from cxr.signals import STOPPED


@app.command(rich_help_panel=RUN)
def demo() -> None:
    """Run the whole pipeline on synthetic X-rays in .demo/, without a network.

    Example: cxr demo && cxr ui --demo
    """
    folder = demo_clone.prepare(project())
    _reproduce(folder, [], of_demo=True)


@app.command(rich_help_panel=RUN)
def table(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A CSV, TSV or Parquet file, a row per image (default: that of params.yaml).",
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder with the images; repeat for more (default: the folder of FILE).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a table of your own images, and print the parameters to train on them.

    The parameters are guessed from the names and values of the columns; check them. Without FILE,
    check the table and parameters in params.yaml. Exit status 1 if the table has problems.

    Example: cxr table labels.csv --images scans/
    """
    from cxr.cli import table_preview
    from cxr.data import proposal
    from cxr.params import load

    root = project()
    params = load(root / PARAMS_FILE)
    settings, path = params.download.table, str(file or params.download.path)
    if file is not None:
        folders = [each.resolve() for each in images or [file.parent]]
        settings, path = proposal.propose(file, folders, settings), str(file.resolve())
    elif params.download.source != "table":
        raise CxrError(f"{PARAMS_FILE} has no table; name one: cxr table FILE")
    preview = proposal.preview(settings, path, root, params)
    if as_json:
        print_json(preview.as_json())
    else:
        table_preview.show(preview, path, is_proposal=file is not None)
    raise typer.Exit(int(bool(preview.problems)))


@app.command(rich_help_panel=RUN)
def repro(
    stages: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STAGE",
            help="Stages to run, with the stages they depend on (default: all).",
            autocompletion=completion.stages,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the stages that have changed (dvc repro), and print a summary.

    Example: cxr repro train-vit
    """
    _reproduce(project(), stages or [], as_json)


@app.command(rich_help_panel=RUN)
def sweep(
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "-S",
            "--set-param",
            metavar="KEY=VALUES",
            help="Parameter below train in params.yaml, and a list of values: 1e-3,2e-3. With "
            "--random, also a range: 0.1..0.5, 2..8 or log:1e-4..1e-2.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            metavar="N",
            help="Number of seeds per configuration, starting at the seed in params.yaml.",
        ),
    ] = 2,
    random: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Sample N random configurations instead of the full grid."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the random sampling.")] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Most experiments at a time (default: 2 here, all that fit on a cluster).",
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="Where to run: local, HOST:PORT of a Ray cluster, or auto for the cluster that "
            "this machine is part of.",
        ),
    ] = "local",
    cpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            help="CPUs and threads per experiment (default: threads in params.yaml, or fewer if "
            "experiments share this machine's cores).",
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="X",
            help="GPUs per experiment, such as 1 or 0.5; 0 for none (default: share what is "
            "there; on a cluster with GPUs, 1).",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Prefix of the experiments' names.")
    ] = "sweep",
    explain: Annotated[
        bool, typer.Option("--explain", help="Also make the heat maps of every experiment.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would run.")] = False,
    as_json: Json = False,
) -> None:
    """Train configurations with several seeds, as DVC experiments, and rank them.

    The best is chosen by macro AUROC on validation, never on test. Finished experiments are not
    run again, so after Ctrl-C, or with more values, just run the command again. Exit status 1 if
    an experiment failed.

    Example: cxr sweep -S train.cnn.lr=1e-3,2e-3 -S train.cnn.dropout=0.1,0.3 --seeds 3

    Example: cxr sweep -S train.cnn.lr=log:1e-4..1e-2 --random 8 --name rates

    Example: cxr sweep -S train.vit.depth=2..8 --random 40 --seeds 5 --on 10.0.0.1:6379 --gpus 0.5
    """
    from cxr.cli import sweep_table
    from cxr.sweep import results, space
    from cxr.sweep import run as sweeping
    from cxr.sweep.plan import LOCAL, Place, make

    parsed = space.parse(assignments or [])
    drawn = space.grid(parsed) if random is None else space.random(parsed, random, seed)
    root = project()
    plan = make(root, name, drawn, seeds, Place(on, jobs, cpus, gpus), explain)
    done = results.done(plan, root)
    if dry_run and as_json:
        print_json(plan.as_json() | {"done": sorted(done)})
    elif dry_run:
        sweep_table.plan(plan, done)
    if dry_run:
        return
    with sweep_table.live(progress.note if as_json else progress.say) as (say, show):
        say(f"sweep: {sweep_table.headline(plan, done)}")
        answer = sweeping.run(plan, root, say, show)
        if on != LOCAL and len(done) < len(plan.experiments):
            _log_to_own_store(root, say)
    if as_json:
        print_json(answer.as_json())
    elif answer.failed or not progress.is_quiet():
        sweep_table.answer(answer)
    raise typer.Exit(int(bool(answer.failed)))


@app.command(rich_help_panel=RUN)
def doctor(as_json: Json = False) -> None:
    """Check this machine and this clone for problems, and print how to fix them.

    Exit status 1 if a problem would make a stage or a command fail.

    Example: cxr doctor
    """
    from cxr import doctor as examination
    from cxr.doctor.finding import print_findings

    findings = examination.examine(examination.find_project(Path.cwd()))
    if as_json:
        print_json(examination.as_json(findings))
    else:
        print_findings(findings, progress.is_quiet())
    raise typer.Exit(int(examination.has_blockers(findings)))


def _reproduce(
    project: Path, stages: list[str], as_json: bool = False, of_demo: bool = False
) -> None:
    from cxr.cli.summary import summary
    from cxr.pipeline import repro as reproduction

    out = sys.stderr if as_json else sys.stdout
    done = reproduction.repro(project, stages, out, own_store=of_demo)
    if as_json:
        print_json(done.as_json())
    elif not progress.is_quiet():
        summary(done, project, of_demo)
    if done.status == STOPPED:
        raise typer.Exit(STOPPED)
    if done.status != 0:
        raise CxrError(f"the pipeline failed in {project}; see the output above")


def _log_to_own_store(root: Path, say: Callable[[str], None]) -> None:
    """Rebuild the runs of a cluster's nodes, which reach a server but not the project's store."""
    from cxr.audit import sync
    from cxr.tracking import database

    if database.uses_own_store():
        say("sweep: adding the runs of the nodes to MLflow")
        sync.sync(root, lambda done, total: None)

"""The `cxr` command."""

import io
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from cxr import demo as demo_clone
from cxr import progress, usage
from cxr.errors import CxrError, shown
from cxr.interruption import STOPPED
from cxr.params import PARAMS_FILE
from cxr.terminal import is_plain
from cxr.usage import ASK, RUN, SHARE

app = typer.Typer(
    cls=usage.Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if is_plain() else "markdown",
)

# MLflow's page opens in a mode for language models unless it is told otherwise.
UI_VIEW = "#/experiments?workflowType=machine_learning"
LOOPBACK = "127.0.0.1"

Json = Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")]


@app.callback()
def commands(
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress, no notes, no word of what is well.")
    ] = False,
) -> None:
    """Chest X-ray models: trained, compared, explained, and traced to what made them.

    Not a medical device.

    Example: cxr demo
    """
    if quiet:
        progress.be_quiet()


@app.command(rich_help_panel=RUN)
def demo() -> None:
    """Run the whole pipeline on synthetic X-rays in .demo/, without a network.

    Example: cxr demo && cxr ui --demo
    """
    folder = demo_clone.prepare(_project())
    _reproduce(folder, [], of_demo=True)


@app.command(rich_help_panel=RUN)
def repro(
    stages: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STAGE", help="With all it needs; else all.", autocompletion=usage.stages
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run what has changed (dvc repro), and tell what ran and what came of it.

    Example: cxr repro train-vit
    """
    _reproduce(_project(), stages or [], as_json)


@app.command(rich_help_panel=RUN)
def doctor(as_json: Json = False) -> None:
    """Find what is missing on this machine and in this clone, and how to mend it.

    Exit status 1 where something stands in the way.

    Example: cxr doctor
    """
    from cxr import doctor as examination
    from cxr.doctor.finding import tell

    findings = examination.examine(examination.find_project(Path.cwd()))
    if as_json:
        _print_json(examination.as_json(findings))
    else:
        tell(findings, progress.is_quiet())
    raise typer.Exit(int(examination.hinders(findings)))


@app.command(rich_help_panel=SHARE)
def ui(
    of_demo: Annotated[bool, typer.Option("--demo", help="Show the demo's runs.")] = False,
    host: Annotated[str, typer.Option(help="An address of this machine to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Show all runs in MLflow's pages on 127.0.0.1.

    Example: cxr ui --port 5001
    """
    from cxr.tracking import database  # takes two seconds, and the other commands do without
    from cxr.tracking.store import Store

    folder = _with_runs(of_demo)
    store = Store.open(folder)  # runs of processes that are gone no longer say RUNNING
    if host != LOOPBACK:
        print(
            f"cxr: note: whoever reaches port {port} of {host} can read, change and delete every "
            "run; MLflow asks for no password (names besides its addresses: "
            "MLFLOW_SERVER_ALLOWED_HOSTS)",
            file=sys.stderr,
        )
    print(f"http://{host}:{port}/{UI_VIEW}")
    for view in store.views() if store else []:
        print(f"{view.experiment}, {view.shows}:\n  http://{host}:{port}/{view.place}")
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", database.store_uri(folder)]
    command += ["--host", host, "--port", str(port)]
    os.execv(sys.executable, command)  # noqa: S606 - a list, no shell  # nosec B606


@app.command(rich_help_panel=SHARE)
def report(
    of_demo: Annotated[bool, typer.Option("--demo", help="Report on the demo.")] = False,
    as_json: Json = False,
) -> None:
    """Write reports/index.html: every result on one page that opens offline and can be sent on.

    Example: cxr report --demo
    """
    from cxr import report as reporting  # takes seconds, and --help does without

    path = reporting.write(_project() / (demo_clone.FOLDER if of_demo else ""))
    if as_json:
        _print_json({"report": str(path)})
    else:
        print(path.as_uri())


@app.command(rich_help_panel=ASK)
def audit(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A run id or its start, or a file or folder that a stage made.",
            autocompletion=usage.runs_and_files,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what made a result, up to its source, and whether that still holds.

    Without a target: everything here and in every experiment. Exit status 1 where something does
    not hold.

    Example: cxr audit reports/metrics.json
    """
    from cxr import printing  # this and the next take seconds, and --help does without
    from cxr.audit import RUN_ID, Auditor, Verdict

    with progress.bar("audit", progress.beside) as advance:
        if target is None:
            answer = Auditor(_project(), advance).everything()
        elif RUN_ID.fullmatch(target) and not Path(target).exists():
            answer = Auditor(_project(), advance).run(target)
        else:
            answer = Auditor(_project(Path(target).parent), advance).output(Path(target))
    fails = answer.verdict is Verdict.FAILS
    if as_json:
        _print_json(answer.as_json())
    elif fails or not progress.is_quiet():
        printing.audit(answer)
    raise typer.Exit(int(fails))


@app.command(rich_help_panel=ASK)
def diff(
    a: Annotated[
        str,
        typer.Argument(
            help="A run id, an experiment or a git revision.",
            autocompletion=usage.runs_and_revisions,
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            help="Another; unless told, what stands here.",
            autocompletion=usage.runs_and_revisions,
        ),
    ] = "workspace",
    as_json: Json = False,
) -> None:
    """Tell why two results differ: data, parameters, code, environment, or nothing.

    Example: cxr diff baseline wide-vit
    """
    from cxr import printing
    from cxr.difference import difference

    answer = difference(_project(), a, b)
    if as_json:
        _print_json(answer.as_json())
    else:
        printing.diff(answer)


@app.command(rich_help_panel=ASK)
def replay(
    run: Annotated[
        str,
        typer.Argument(help="A run id or its start.", metavar="RUN_ID", autocompletion=usage.runs),
    ],
    as_json: Json = False,
) -> None:
    """Make a run's result again from the recorded commit, parameters and data, and compare.

    In a temporary place: nothing here changes. Exit status 1 where the result is another, or
    where something that it needs is gone.

    Example: cxr replay 3f2a91c0
    """
    from cxr import printing
    from cxr import replay as replaying

    try:
        out = sys.stderr if as_json or progress.is_quiet() else sys.stdout
        done = replaying.replay(_project(), run, out)
    except replaying.Gone as gone:
        print(shown(f"cxr: run {run} can't be made again: {gone}"), file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        _print_json(done.as_json())
    elif not (progress.is_quiet() and done.holds):
        printing.replay(done)
    raise typer.Exit(int(not done.holds))


@app.command(rich_help_panel=SHARE)
def sync(as_json: Json = False) -> None:
    """Bring MLflow up to what the records say: after a lost database, a pull, or a move.

    Rebuilds every run that is missing, with its curves, parameters, tags, data sets and figures,
    and lets the pictures be found where the folder stands now. Run twice, it does nothing twice.

    Example: dvc pull && cxr sync
    """
    from cxr import printing
    from cxr import sync as syncing

    with progress.bar("sync", progress.beside) as advance:
        done = syncing.sync(_project(), advance)
    if as_json:
        _print_json(asdict(done))
    elif done.refused or not progress.is_quiet():
        printing.sync(done)
    raise typer.Exit(int(bool(done.refused)))


@app.command(rich_help_panel=RUN)
def sweep(
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "-S",
            "--set-param",
            metavar="KEY=VALUES",
            help="Choices 1e-3,2e-3; for --random ranges, too: 0.1..0.5, 2..8, log:1e-4..1e-2.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=100, help="Trainings of each: params.yaml's seed and on.")
    ] = 2,
    random: Annotated[
        int | None, typer.Option(min=1, help="So many draws instead of every combination.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Experiments at a time.")] = 2,
    name: Annotated[str, typer.Option(help="How its experiments' names begin.")] = "sweep",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would run.")] = False,
    as_json: Json = False,
) -> None:
    """Compare configurations over seeds, as queued DVC experiments, and rank them in one table.

    The best is chosen by macro AUROC on validation, never by test. What is done is not run again:
    after Ctrl-C, or with more values, the same command goes on. Exit status 1 where one failed.

    Example: cxr sweep -S train.cnn.lr=1e-3,2e-3 -S train.cnn.dropout=0.1,0.3 --seeds 3

    Example: cxr sweep -S train.cnn.lr=log:1e-4..1e-2 --random 8 --name rates
    """
    from cxr import leaderboard
    from cxr import sweep as sweeping

    space = sweeping.parse(assignments or [])
    drawn = sweeping.grid(space) if random is None else sweeping.random(space, random, seed)
    root = _project()
    plan = sweeping.make(root, name, drawn, seeds, jobs)
    done = sweeping.done(plan, root)
    if dry_run and as_json:
        _print_json(plan.as_json() | {"done": sorted(done)})
    elif dry_run:
        leaderboard.plan(plan, done)
    if dry_run:
        return
    say = progress.note if as_json else progress.say
    say(f"sweep: {leaderboard.headline(plan, done)}")
    with progress.bar("sweep", progress.beside) as advance:
        answer = sweeping.run(plan, root, say, advance)
    if as_json:
        _print_json(answer.as_json())
    elif answer.failed or not progress.is_quiet():
        leaderboard.answer(answer)
    raise typer.Exit(int(bool(answer.failed)))


@app.command(rich_help_panel=ASK)
def score(
    predictions: Annotated[
        Path, typer.Argument(help="An npz (logits or probabilities) or a CSV with ids.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="An npz or CSV of labels, or ChestMNIST's file; else PREDICTIONS."),
    ] = None,
    split: Annotated[str, typer.Option(help="Whose arrays to take from an npz.")] = "test",
    logits: Annotated[bool, typer.Option("--logits", help="A CSV's numbers are logits.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Beside the models here.")] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure anybody's predictions as evaluate measures our models, and beside them.

    Images are matched by id where both files have ids. Labels may stand in any order, in any case
    and behind `prob_`. medmnist's own evaluation CSV is read, too.

    Example: cxr score theirs.csv --labels chestmnist.npz

    Example: cxr score theirs.npz --labels labels.csv --compare
    """
    from cxr import printing, scoring

    with progress.bar("score: resamples", progress.beside) as advance:
        done = scoring.score(
            predictions,
            labels or predictions,
            split,
            logits,
            resamples,
            seed,
            advance,
            _project() if compare else None,
        )
    if as_json:
        _print_json(done.as_json(compare))
    else:
        printing.score(done)


@app.command(rich_help_panel=ASK)
def predict(
    image: Annotated[
        list[str], typer.Argument(help="PNG, JPEG or DICOM files, folders or patterns.")
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A model of this clone, its folder, or MLflow's address of it.",
            autocompletion=usage.models,
        ),
    ],
    cam: Annotated[
        Path | None, typer.Option(help="A folder for pictures of where the model looks.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="A file for a table.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what a model says of your own chest X-rays. Not a medical device.

    Images are prepared as the training images were; probabilities are calibrated if the model is.
    A file that can't be used stops no other, and makes the exit status 2.

    Example: cxr predict scans/ --model squeezenet --cam maps/ --csv scans.csv
    """
    from cxr import images, predicting, printing

    chosen = predicting.load(model, _nearest_project(Path.cwd()))
    paths = images.find(image)
    maps = predicting.places(paths, cam) if cam is not None else {}
    if csv is not None:
        predicting.check_table(csv, paths)
    done: list[predicting.Prediction | predicting.Refused] = []
    with progress.bar("predict", progress.beside) as advance:
        for each in predicting.predict(chosen, paths, maps):
            done.append(each)
            advance(len(done), len(paths))
    if csv is not None:
        predicting.write_table(done, csv)
    if as_json:
        _print_json(predicting.as_json(done, chosen))
    else:
        printing.predictions(done, chosen)
    for each in done:
        if isinstance(each, predicting.Refused):
            print(f"cxr: {each.reason}", file=sys.stderr)
    raise typer.Exit(2 if any(isinstance(each, predicting.Refused) for each in done) else 0)


@app.command(rich_help_panel=SHARE)
def serve(
    model: Annotated[
        str | None,
        typer.Option(help="MLflow's address of a model; unless told, this project's champion."),
    ] = None,
    of_demo: Annotated[bool, typer.Option("--demo", help="Of the demo's models.")] = False,
    host: Annotated[str, typer.Option(help="An address of this machine to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5001,
) -> None:
    """Answer HTTP requests with a registered model's probabilities, as MLflow does.

    Example: cxr serve --model models:/cxr-chestmnist-28@champion --port 5002
    """
    folder = _with_runs(of_demo)
    from cxr import params  # this and the next ones take seconds, and a refusal does without
    from cxr.data import source
    from cxr.serving import server
    from cxr.tracking.registry import CHAMPION, name_of

    asked = params.load(folder / PARAMS_FILE)
    champion = f"models:/{name_of(source.origin(asked.download).name)}@{CHAMPION}"
    if host != LOOPBACK:
        print(
            f"cxr: note: whoever reaches port {port} of {host} can ask the model; there is no "
            "password",
            file=sys.stderr,
        )
    server.serve(folder, model or champion, host, port, asked.threads)


def _reproduce(
    project: Path, stages: list[str], as_json: bool = False, of_demo: bool = False
) -> None:
    from cxr import repro as reproduction
    from cxr.summary import summary

    out = sys.stderr if as_json else sys.stdout
    done = reproduction.repro(project, stages, out, own_store=of_demo)
    if as_json:
        _print_json(done.as_json())
    elif not progress.is_quiet():
        summary(done, project, of_demo)
    if done.status == STOPPED:
        raise typer.Exit(STOPPED)
    if done.status != 0:
        raise CxrError(f"the pipeline stopped in {project}; the lines above say why")


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=2))


def _with_runs(of_demo: bool) -> Path:
    """The project, or its demo; CxrError where MLflow has no runs of it."""
    from cxr.tracking import database  # takes two seconds, and the other commands do without

    folder = _project() / (demo_clone.FOLDER if of_demo else "")
    if "MLFLOW_TRACKING_URI" not in os.environ and not (folder / database.STORE_FILE).exists():
        first = "make demo" if of_demo else "make repro"
        raise CxrError(f"{folder} has no runs yet; `{first}` makes some")
    return folder


def _project(place: Path | None = None) -> Path:
    """The nearest folder, from a place upwards, that holds the pipeline."""
    here = (place or Path.cwd()).resolve()
    found = _nearest_project(here)
    if found is None:
        raise CxrError(f"{here} is not inside a clone of the pipeline; change to one")
    return found


def _nearest_project(here: Path) -> Path | None:
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists() and (folder / PARAMS_FILE).exists():
            return folder
    return None


def main() -> None:
    """Entry point: what is wrong with a call is one line and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few characters
    try:
        status = app(standalone_mode=False)
    except CxrError as error:
        _refuse(str(error))
    except TyperException as error:  # the call itself: an unknown option, a word for a number
        said = error.format_message().rstrip(".")
        if not said:  # `cxr` alone has shown its help
            sys.exit(2)
        _refuse(f"{said}; `cxr --help` and `cxr COMMAND --help` tell more")
    except BrokenPipeError:  # `cxr audit | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _refuse(f"{error.filename or 'a file'}: {error.strerror or error}")
    except (Abort, KeyboardInterrupt):
        status = STOPPED
    if status == STOPPED:  # what typer makes of Ctrl-C
        print("cxr: stopped", file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def _refuse(reason: str) -> NoReturn:
    print(f"cxr: {shown(reason)}", file=sys.stderr)
    sys.exit(2)

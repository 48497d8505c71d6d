"""The `cxr` command."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import Abort, TyperException

from cxr import demo as demo_clone
from cxr import progress
from cxr.errors import CxrError, shown
from cxr.params import PARAMS_FILE

app = typer.Typer(
    help="Chest X-ray models: trained, compared, explained, and traced to what made them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

# MLflow's page opens in a mode for language models unless it is told otherwise.
UI_VIEW = "#/experiments?workflowType=machine_learning"
LOOPBACK = "127.0.0.1"

Json = Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")]


@app.callback()
def commands() -> None:
    """Not a medical device."""


@app.command()
def demo() -> None:
    """Run the whole pipeline on synthetic X-rays in .demo/, without a network.

    Example: cxr demo && cxr ui --demo
    """
    project = _project()
    folder = demo_clone.prepare(project)
    status = demo_clone.reproduce(folder)
    if status != 0:
        raise CxrError(f"the pipeline stopped in {folder}; the lines above say why")
    print(
        f"""
The pipeline stands in {folder}, made from synthetic X-rays (PHANTOM). Look at

  reports/evaluation/auroc.png  the three models over each other, finding by finding
  reports/gradcam/cnn/5.png     where a model looks
  reports/metrics.json          every number, beside what "no" for everything scores
  reports/data/samples.png      the images

and at every run, curve and picture in the browser:  make ui DEMO=1
""".rstrip()
    )


@app.command()
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

    folder = _project() / (demo_clone.FOLDER if of_demo else "")
    if "MLFLOW_TRACKING_URI" not in os.environ and not (folder / database.STORE_FILE).exists():
        first = "make demo" if of_demo else "make repro"
        raise CxrError(f"{folder} has no runs yet; `{first}` makes some")
    Store.open(folder)  # runs of processes that are gone no longer say RUNNING
    if host != LOOPBACK:
        print(
            f"cxr: note: whoever reaches port {port} of {host} can read, change and delete every "
            "run; MLflow asks for no password (names besides its addresses: "
            "MLFLOW_SERVER_ALLOWED_HOSTS)",
            file=sys.stderr,
        )
    print(f"http://{host}:{port}/{UI_VIEW}", flush=True)
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", database.store_uri(folder)]
    command += ["--host", host, "--port", str(port)]
    os.execv(sys.executable, command)  # noqa: S606 - a list, no shell  # nosec B606


@app.command()
def audit(
    target: Annotated[
        str | None,
        typer.Argument(help="A run id or its start, or a file or folder that a stage made."),
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

    if target is None:
        answer = Auditor(_project()).everything()
    elif RUN_ID.fullmatch(target) and not Path(target).exists():
        answer = Auditor(_project()).run(target)
    else:
        answer = Auditor(_project(Path(target).parent)).output(Path(target))
    if as_json:
        _print_json(answer.as_json())
    else:
        printing.audit(answer)
    raise typer.Exit(int(answer.verdict is Verdict.FAILS))


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="A run id, an experiment or a git revision.")],
    b: Annotated[str, typer.Argument(help="Another; unless told, what stands here.")] = "workspace",
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


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="A run id or its start.", metavar="RUN_ID")],
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
        done = replaying.replay(_project(), run, sys.stderr if as_json else sys.stdout)
    except replaying.Gone as gone:
        print(shown(f"cxr: run {run} can't be made again: {gone}"), file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        _print_json(done.as_json())
    else:
        printing.replay(done)
    raise typer.Exit(int(not done.holds))


@app.command()
def sync(as_json: Json = False) -> None:
    """Bring MLflow up to what the records say: after a lost database, a pull, or a move.

    Rebuilds every run that is missing, with its curves, parameters, tags, data sets and figures,
    and lets the pictures be found where the folder stands now. Run twice, it does nothing twice.

    Example: dvc pull && cxr sync
    """
    from cxr import printing
    from cxr import sync as syncing

    with progress.bar("sync") as advance:
        done = syncing.sync(_project(), advance)
    if as_json:
        _print_json(asdict(done))
    else:
        printing.sync(done)
    raise typer.Exit(int(bool(done.refused)))


@app.command()
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

    Examples: cxr sweep -S train.cnn.lr=1e-3,2e-3 -S train.cnn.dropout=0.1,0.3 --seeds 3

              cxr sweep -S train.cnn.lr=log:1e-4..1e-2 --random 8 --name rates
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
    with progress.bar("sweep") as advance:
        answer = sweeping.run(plan, root, say, advance)
    if as_json:
        _print_json(answer.as_json())
    else:
        leaderboard.answer(answer)
    raise typer.Exit(int(bool(answer.failed)))


@app.command()
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

    Examples: cxr score theirs.csv --labels chestmnist.npz

              cxr score theirs.npz --labels labels.csv --compare
    """
    from cxr import printing, scoring

    with progress.bar("score: resamples") as advance:
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


@app.command()
def predict(
    image: Annotated[
        list[str], typer.Argument(help="PNG, JPEG or DICOM files, folders or patterns.")
    ],
    model: Annotated[
        str, typer.Option(help="A model of this clone, its folder, or MLflow's address of it.")
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
    with progress.bar("predict") as advance:
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


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=2))


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
        print("cxr: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _refuse(reason: str) -> NoReturn:
    print(f"cxr: {shown(reason)}", file=sys.stderr)
    sys.exit(2)

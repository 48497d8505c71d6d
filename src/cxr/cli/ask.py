"""Commands that answer a question: of a result, of predictions, of an image."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cxr import progress
from cxr.cli import completion
from cxr.cli.app import Json, app, nearest_project, print_json, project
from cxr.cli.completion import ASK
from cxr.errors import shown


@app.command(rich_help_panel=ASK)
def audit(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A run id or its start, or a file or folder that a stage made.",
            autocompletion=completion.runs_and_files,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what made a result, up to its source, and whether that still holds.

    Without a target: everything here and in every experiment. Exit status 1 where something does
    not hold.

    Example: cxr audit reports/metrics.json
    """
    from cxr.audit.audit import RUN_ID, Auditor
    from cxr.audit.finding import Verdict
    from cxr.cli import printing  # this and the next take seconds, and --help does without

    with progress.bar("audit", progress.stderr_console) as advance:
        if target is None:
            answer = Auditor(project(), advance).everything()
        elif RUN_ID.fullmatch(target) and not Path(target).exists():
            answer = Auditor(project(), advance).run(target)
        else:
            answer = Auditor(project(Path(target).parent), advance).output(Path(target))
    fails = answer.verdict is Verdict.FAILS
    if as_json:
        print_json(answer.as_json())
    elif fails or not progress.is_quiet():
        printing.audit(answer)
    raise typer.Exit(int(fails))


@app.command(rich_help_panel=ASK)
def diff(
    a: Annotated[
        str,
        typer.Argument(
            help="A run id, an experiment or a git revision.",
            autocompletion=completion.runs_and_revisions,
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            help="Another; unless told, what stands here.",
            autocompletion=completion.runs_and_revisions,
        ),
    ] = "workspace",
    as_json: Json = False,
) -> None:
    """Tell why two results differ: data, parameters, code, environment, or nothing.

    Example: cxr diff baseline wide-vit
    """
    from cxr.audit.difference import difference
    from cxr.cli import printing

    answer = difference(project(), a, b)
    if as_json:
        print_json(answer.as_json())
    else:
        printing.diff(answer)


@app.command(rich_help_panel=ASK)
def replay(
    run: Annotated[
        str,
        typer.Argument(
            help="A run id or its start.", metavar="RUN_ID", autocompletion=completion.runs
        ),
    ],
    as_json: Json = False,
) -> None:
    """Make a run's result again from the recorded commit, parameters and data, and compare.

    In a temporary place: nothing here changes. Exit status 1 where the result is another, or
    where something that it needs is gone.

    Example: cxr replay 3f2a91c0
    """
    from cxr.audit import replay as replaying
    from cxr.cli import printing

    try:
        out = sys.stderr if as_json or progress.is_quiet() else sys.stdout
        done = replaying.replay(project(), run, out)
    except replaying.MissingInput as gone:
        print(shown(f"cxr: run {run} can't be made again: {gone}"), file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print_json(done.as_json())
    elif not (progress.is_quiet() and done.holds):
        printing.replay(done)
    raise typer.Exit(int(not done.holds))


@app.command(rich_help_panel=ASK)
def score(
    predictions: Annotated[
        Path, typer.Argument(help="A CSV, npz or npy file of probabilities or logits.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="A CSV, npz or npy file of labels, if not PREDICTIONS itself."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Which split's arrays to read from an npz file.")
    ] = "test",
    logits: Annotated[
        bool, typer.Option("--logits", help="The numbers are logits, if their name doesn't say it.")
    ] = False,
    by_order: Annotated[
        bool, typer.Option("--by-order", help="Match images by row order, ignoring ids.")
    ] = False,
    common: Annotated[
        bool, typer.Option("--common", help="Score only the images that both files have.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with the models of this clone.")
    ] = False,
    resamples: Annotated[
        int, typer.Option(min=100, max=100_000, help="Number of bootstrap resamples.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure anybody's predictions with the metrics of evaluate.

    Images are matched by id, whatever the name of the column is, and by row order only if neither
    file has ids. The answer says how. docs/evaluation.md lists the layouts that are read.

    Example: cxr score theirs.csv --labels labels.csv

    Example: cxr score theirs.npz --labels chestmnist.npz --by-order

    Example: cxr score theirs.npz --labels labels.csv --compare
    """
    from cxr.cli import printing
    from cxr.scoring import score as scoring

    with progress.bar("score: resamples", progress.stderr_console) as advance:
        done = scoring.score(
            predictions,
            labels or predictions,
            split,
            logits,
            resamples,
            seed,
            advance,
            project() if compare else None,
            by_order,
            common,
        )
    if as_json:
        print_json(done.as_json(compare))
    else:
        printing.score(done)


@app.command(rich_help_panel=ASK)
def predict(
    image: Annotated[list[str], typer.Argument(help="Image files, folders or patterns.")],
    model: Annotated[
        str,
        typer.Option(
            help="A model of this clone, its folder, or MLflow's address of it.",
            autocompletion=completion.models,
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
    from cxr.cli import printing
    from cxr.data.images.find import find
    from cxr.inference import predict

    chosen = predict.load(model, nearest_project(Path.cwd()))
    found = find(image)
    paths = found.paths
    if found.taken:
        progress.note(f"predict: {found}")
    maps = predict.map_paths(paths, cam) if cam is not None else {}
    if csv is not None:
        predict.check_table(csv, paths)
    done: list[predict.Prediction | predict.Refused] = []
    with progress.bar("predict", progress.stderr_console) as advance:
        for each in predict.predict(chosen, paths, maps):
            done.append(each)
            advance(len(done), len(paths))
    if csv is not None:
        predict.write_table(done, csv)
    if as_json:
        print_json(predict.as_json(done, chosen, found))
    else:
        printing.predictions(done, chosen)
    for each in done:
        if isinstance(each, predict.Refused):
            print(f"cxr: {each.reason}", file=sys.stderr)
    raise typer.Exit(2 if any(isinstance(each, predict.Refused) for each in done) else 0)

"""Commands that analyze results, predictions and images."""

import sys
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from cxr import progress
from cxr.cli import completion
from cxr.cli.app import Json, app, nearest_project, print_json, project
from cxr.cli.completion import ANALYZE
from cxr.errors import CxrError, shown


@app.command(rich_help_panel=ANALYZE)
def audit(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="A run id or a prefix of one, or an output of a stage.",
            autocompletion=completion.runs_and_files,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Trace a result to its data, code and parameters, and verify each step.

    Without a target, audit all results of the working copy and of all experiments. Exit status 1 if
    a check fails.

    Example: cxr audit reports/metrics.json
    """
    from cxr.audit.audit import RUN_ID, Auditor
    from cxr.audit.finding import Verdict
    from cxr.cli import printing  # slow imports, not needed for --help

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


@app.command(rich_help_panel=ANALYZE)
def diff(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A run id, an experiment or a git revision.",
            autocompletion=completion.runs_and_revisions,
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="What to compare it with, in the same form.",
            autocompletion=completion.runs_and_revisions,
        ),
    ] = "workspace",
    as_json: Json = False,
) -> None:
    """Explain why two results differ: data, parameters, code or environment.

    Example: cxr diff baseline wide-vit
    """
    from cxr.audit.difference import difference
    from cxr.cli import printing

    answer = difference(project(), a, b)
    if as_json:
        print_json(answer.as_json())
    else:
        printing.diff(answer)


@app.command(rich_help_panel=ANALYZE)
def replay(
    run: Annotated[
        str,
        typer.Argument(
            help="A run id or a prefix of one.", metavar="RUN_ID", autocompletion=completion.runs
        ),
    ],
    as_json: Json = False,
) -> None:
    """Repeat a run from its recorded commit, parameters and data, and compare the results.

    It uses a temporary folder and changes nothing in this clone. Exit status 1 if the
    result differs, or if something that the run needs is missing.

    Example: cxr replay 3f2a91c0
    """
    from cxr.audit import replay as replaying
    from cxr.cli import printing

    try:
        out = sys.stderr if as_json or progress.is_quiet() else sys.stdout
        done = replaying.replay(project(), run, out)
    except replaying.MissingInput as error:
        print(shown(f"cxr: cannot replay run {run}: {error}"), file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print_json(done.as_json())
    elif not (progress.is_quiet() and done.holds):
        printing.replay(done)
    raise typer.Exit(int(not done.holds))


@app.command(rich_help_panel=ANALYZE)
def score(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS", help="A CSV, npz or npy file of probabilities or logits."
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A CSV, npz or npy file of labels (default: those in PREDICTIONS).",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Which split's arrays to read from an npz file.")
    ] = "test",
    logits: Annotated[
        bool,
        typer.Option(
            "--logits", help="Predictions are logits; ignored for npz arrays named probs."
        ),
    ] = False,
    by_order: Annotated[
        bool, typer.Option("--by-order", help="Match images by row order, ignoring ids.")
    ] = False,
    common: Annotated[
        bool, typer.Option("--common", help="Score only the images that are in both files.")
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="NAME",
            help="A column of both files that is a label; repeat for more.",
        ),
    ] = None,
    companion: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A table of sex, age, view … by image id: adds metrics by group, and patients.",
        ),
    ] = None,
    bands: Annotated[
        str, typer.Option(metavar="AGES", help="Ages at which groups begin.")
    ] = "40,65",
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A table of other readers' labels by image id, to compare with.",
        ),
    ] = None,
    reading: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=LABEL,LABEL",
            help="What a column of --reference is any of, if it is not named like a label; repeat "
            "for more.",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with the models of this clone.")
    ] = False,
    resamples: Annotated[
        int, typer.Option(min=100, max=100_000, metavar="N", help="Number of bootstrap resamples.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Score any predictions with the metrics of the evaluate stage.

    Images are matched by id (the id column is found automatically), or by row order if neither
    file has ids; the output says which. Labels that both files have are scored. docs/evaluation.md
    lists the supported layouts.

    Example: cxr score theirs.csv --labels labels.csv

    Example: cxr score theirs.npz --labels chestmnist.npz --by-order

    Example: cxr score theirs.npz --labels labels.csv --compare

    Example: cxr score theirs.npz --companion Data_Entry_2017_v2020.csv
    """
    from cxr.cli import printing
    from cxr.scoring import score as scoring
    from cxr.scoring.extra_tables import ExtraTables

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
            also or (),
            ExtraTables(companion, _ages(bands), reference, _readings(reading or [])),
        )
    if as_json:
        print_json(done.as_json(compare))
    else:
        printing.score(done)


def _ages(text: str) -> tuple[float, ...]:
    try:
        ages = tuple(float(part) for part in text.split(","))
    except ValueError:
        ages = ()
    if not ages or list(ages) != sorted(set(ages)) or not all(map(isfinite, ages)):
        raise CxrError(f"--bands is {text!r}; expected increasing ages such as 40,65")
    return ages


def _readings(texts: list[str]) -> dict[str, tuple[str, ...]]:
    readings = {}
    for text in texts:
        column, _, labels = text.partition("=")
        readings[column] = tuple(label.strip() for label in labels.split(",") if label.strip())
        if not readings[column]:
            raise CxrError(f"--reading is {text!r}; expected COLUMN=LABEL or COLUMN=LABEL,LABEL")
    return readings


@app.command(rich_help_panel=ANALYZE)
def predict(
    image: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Image files, folders or glob patterns.")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Name of a model of this clone, such as cnn, a model folder or an MLflow URI.",
            autocompletion=completion.models,
        ),
    ],
    cam: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write heat maps to.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV file to write predictions to.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict findings in your own chest X-rays. Not a medical device.

    Images are preprocessed like the training images; predictions are calibrated if a calibration
    was fitted. Files that cannot be used are reported and skipped; the exit status is then 2.

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
        predict.write_table(done, chosen.saved.labels, csv)
    if as_json:
        print_json(predict.as_json(done, chosen, found))
    else:
        printing.predictions(done, chosen)
    for each in done:
        if isinstance(each, predict.Refused):
            print(f"cxr: {each.reason}", file=sys.stderr)
    raise typer.Exit(2 if any(isinstance(each, predict.Refused) for each in done) else 0)

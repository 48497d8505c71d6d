"""The typer app, its global options, and how commands find the project."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cxr import progress
from cxr.cli import completion
from cxr.cli.terminal import is_plain
from cxr.errors import CxrError, without_passwords
from cxr.paths import PARAMS_FILE, RECORDS
from cxr.pipeline import demo as demo_clone

app = typer.Typer(
    cls=completion.Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if is_plain() else "markdown",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.callback()
def commands(
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print only warnings, errors and failed checks.")
    ] = False,
) -> None:
    """Train, compare and explain chest X-ray models, and trace results to data and code.

    Not a medical device.

    Example: cxr demo
    """
    if quiet:
        progress.be_quiet()


def print_json(content: dict[str, Any]) -> None:
    print(without_passwords(json.dumps(content, indent=2)))


def project(start: Path | None = None) -> Path:
    """The project that contains `start` (default: the working directory)."""
    start = (start or Path.cwd()).resolve()
    root = nearest_project(start)
    if root is None:
        raise CxrError(f"{start} is not inside a clone of the pipeline; cd into one")
    return root


def nearest_project(start: Path) -> Path | None:
    """The nearest folder, from `start` upwards, with dvc.yaml and params.yaml."""
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").exists() and (folder / PARAMS_FILE).exists():
            return folder
    return None


def project_or_demo(of_demo: bool) -> Path:
    """The project, or its demo, which ignores MLFLOW_TRACKING_URI and has its own store."""
    if not of_demo:
        return project()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return project() / demo_clone.FOLDER


def with_runs(of_demo: bool) -> Path:
    """The project, or its demo; raises CxrError if MLflow has no runs of it."""
    from cxr.tracking import database  # takes two seconds, so only where needed

    folder = project_or_demo(of_demo)
    if database.uses_own_store() and not (folder / database.STORE_FILE).exists():
        if any(folder.glob(f"{RECORDS}/*.json")):
            raise CxrError(
                f"{folder / database.STORE_FILE} is missing; `cxr sync` in its folder rebuilds it"
            )
        command = "make demo" if of_demo else "make repro"
        raise CxrError(f"{folder} has no runs yet; run `{command}`")
    return folder

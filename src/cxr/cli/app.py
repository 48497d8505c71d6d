"""What every command needs: the program itself, its options, and the project it is called in."""

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


def print_json(content: dict[str, Any]) -> None:
    print(without_passwords(json.dumps(content, indent=2)))


def project(place: Path | None = None) -> Path:
    """The nearest folder, from a place upwards, that holds the pipeline."""
    here = (place or Path.cwd()).resolve()
    found = nearest_project(here)
    if found is None:
        raise CxrError(f"{here} is not inside a clone of the pipeline; change to one")
    return found


def nearest_project(here: Path) -> Path | None:
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists() and (folder / PARAMS_FILE).exists():
            return folder
    return None


def project_or_demo(of_demo: bool) -> Path:
    """The project, or its demo, whose runs stand in a store of its own whatever is set here."""
    if not of_demo:
        return project()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return project() / demo_clone.FOLDER


def with_runs(of_demo: bool) -> Path:
    """The project, or its demo; CxrError where MLflow has no runs of it."""
    from cxr.tracking import database  # takes two seconds, and the other commands do without

    folder = project_or_demo(of_demo)
    if database.uses_own_store() and not (folder / database.STORE_FILE).exists():
        if any(folder.glob(f"{RECORDS}/*.json")):
            raise CxrError(f"{folder / database.STORE_FILE} is gone; `cxr sync` there rebuilds it")
        first = "make demo" if of_demo else "make repro"
        raise CxrError(f"{folder} has no runs yet; `{first}` makes some")
    return folder

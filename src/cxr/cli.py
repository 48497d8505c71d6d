"""The `cxr` command."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cxr import demo as demo_clone
from cxr.errors import CxrError
from cxr.params import PARAMS_FILE

app = typer.Typer(
    help="Chest X-ray models: trained, compared, explained, and traced to what made them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

# MLflow's page opens in a mode for language models unless it is told otherwise.
UI_VIEW = "#/experiments?workflowType=machine_learning"


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

  reports/auroc.png            the three models over each other, finding by finding
  reports/gradcam/cnn/5.png    where a model looks
  reports/metrics.json         every number, beside what "no" for everything scores
  reports/data/samples.png     the images

and at every run, curve and picture in the browser:  make ui DEMO=1
""".rstrip()
    )


@app.command()
def ui(
    of_demo: Annotated[bool, typer.Option("--demo", help="Show the demo's runs.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Show all runs in MLflow's pages on 127.0.0.1.

    Example: cxr ui --port 5001
    """
    from cxr import tracking  # takes two seconds, and the other commands do without

    folder = _project() / (demo_clone.FOLDER if of_demo else "")
    if "MLFLOW_TRACKING_URI" not in os.environ and not (folder / tracking.STORE_FILE).exists():
        first = "make demo" if of_demo else "make repro"
        raise CxrError(f"{folder} has no runs yet; `{first}` makes some")
    print(f"http://127.0.0.1:{port}/{UI_VIEW}", flush=True)
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", tracking.store_uri(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, command)  # noqa: S606 - a list of arguments, no shell


def _project() -> Path:
    """The nearest folder, from here upwards, that holds the pipeline."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists() and (folder / PARAMS_FILE).exists():
            return folder
    raise CxrError(f"{here} is not inside a clone of the pipeline; change to one")


def main() -> None:
    """Entry point: what is wrong with a call is one line and status 2."""
    try:
        app()
    except CxrError as error:
        print(f"cxr: {error}", file=sys.stderr)
        sys.exit(2)

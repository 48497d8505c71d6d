"""Commands that show results to people and serve models to programs."""

import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from cxr import progress
from cxr.cli.app import Json, app, print_json, project, project_or_demo, with_runs
from cxr.cli.completion import SHARE
from cxr.errors import CxrError, shown
from cxr.paths import PARAMS_FILE

# By default MLflow's UI opens in its mode for language models.
UI_VIEW = "#/experiments?workflowType=machine_learning"
LOOPBACK = "127.0.0.1"


@app.command(rich_help_panel=SHARE)
def report(
    of_demo: Annotated[bool, typer.Option("--demo", help="Report on the demo.")] = False,
    as_json: Json = False,
) -> None:
    """Write reports/index.html: all results on one page that opens offline.

    Example: cxr report --demo
    """
    from cxr import report as reporting  # a slow import, not needed for --help

    path = reporting.write(project_or_demo(of_demo))
    if as_json:
        print_json({"report": str(path)})
    else:
        print(path.as_uri())


@app.command(rich_help_panel=SHARE)
def ui(
    of_demo: Annotated[bool, typer.Option("--demo", help="Show the demo's runs.")] = False,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = LOOPBACK,
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="N", help="Port to listen on.")
    ] = 5000,
) -> None:
    """Start the MLflow UI or, if MLFLOW_TRACKING_URI names a server, print its URL.

    Example: cxr ui --port 5001
    """
    from cxr.tracking import database  # takes two seconds, so only where needed
    from cxr.tracking.store import Store

    folder = with_runs(of_demo)
    store = Store.open(folder)
    if host != LOOPBACK:
        print(
            f"cxr: note: anyone who can reach port {port} of {host} can read, change and delete "
            "all runs; MLflow has no password (allow host names with MLFLOW_SERVER_ALLOWED_HOSTS)",
            file=sys.stderr,
        )
    uri = database.store_uri(folder)
    has_server = uri.startswith(("http://", "https://"))
    ours = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    address = f"{uri.rstrip('/') if has_server else ours}/"
    address = shown(address)
    print(f"{address}{UI_VIEW}")
    for view in store.views() if store else []:
        print(f"{view.experiment}, {view.title}:\n  {address}{view.path}")
    if has_server:
        return
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port)]
    os.execv(sys.executable, command)  # noqa: S606 - a list, no shell  # nosec B606


@app.command(rich_help_panel=SHARE)
def serve(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="MLflow URI of the model (default: the champion, the best on validation).",
        ),
    ] = None,
    of_demo: Annotated[bool, typer.Option("--demo", help="Serve the demo's models.")] = False,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = LOOPBACK,
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="N", help="Port to listen on.")
    ] = 5001,
) -> None:
    """Serve a registered model over HTTP, with MLflow's scoring API.

    Example: cxr serve --model models:/cxr-chestmnist-28@champion --port 5002
    """
    folder = with_runs(of_demo)
    from cxr import params
    from cxr.pipeline import repro

    threads = params.load(folder / PARAMS_FILE).threads
    data = None if model else repro.evaluated_data(folder)
    if not (model or data):
        raise CxrError(
            f"{folder} has no evaluated model yet; run `dvc repro`, or name a model with --model"
        )
    from cxr.inference import server  # slow imports, after the checks
    from cxr.tracking.registry import CHAMPION, name_of

    address = model or f"models:/{name_of(str(data))}@{CHAMPION}"
    if host != LOOPBACK:
        print(
            f"cxr: note: anyone who can reach port {port} of {host} can query the model; there is "
            "no password",
            file=sys.stderr,
        )
    server.serve(folder, address, host, port, threads)


@app.command(rich_help_panel=SHARE)
def sync(as_json: Json = False) -> None:
    """Recreate MLflow runs that are missing, for example after `dvc pull`.

    Missing runs are rebuilt with their curves, parameters, tags, data sets and figures, and
    artifact paths are updated if the project moved. A second sync changes nothing.

    Example: dvc pull && cxr sync
    """
    from cxr.audit import sync as syncing
    from cxr.cli import printing

    with progress.bar("sync", progress.stderr_console) as advance:
        done = syncing.sync(project(), advance)
    if as_json:
        print_json(asdict(done))
    elif done.refused or not progress.is_quiet():
        printing.sync(done)
    raise typer.Exit(int(bool(done.refused)))

"""What is reached from here: data, pretrained weights, MLflow's store, the UI's port."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

from cxr.doctor.context import LIMIT, Place, within
from cxr.doctor.finding import Answer, missing, note, ok

# As torchvision has it, whose import takes seconds.
WEIGHTS_URL = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
OWN_STORE = "sqlite:///mlflow.db"
SQLITE = "sqlite:///"
DATABASES = ("postgresql", "mysql", "mssql")  # the others that MLflow logs to
UI_PORT = 5000
# Drivers that need a library of their database, and the package which brings it.
WITH_LIBRARY = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary"}
# In the middle of what requests, urllib3 and urllib say.
CAUSE = re.compile(r"\[Errno -?\d+\] ([^'\")>]+)|(certificate verify failed)")
REVISION = re.compile(r"^(down_)?revision\s*(?::[^=]+)?=\s*[\"'](\w+)[\"']", re.MULTILINE)


def data_source(place: Place) -> Answer:
    """ChestMNIST's server, where the data is still to be had from it."""
    import requests  # as the stage does: it has certificates of its own

    from cxr.data.source import URLS

    source = place.param("download.source", "medmnist")
    why_not = None if source == "medmnist" else f"download.source is {source}"
    if (place.root / "data" / "raw" / "chest.npz").exists():
        why_not = "data/raw is here"
    url = URLS.get(place.param("download.size", 28), URLS[28])
    return _reached(
        url,
        lambda: requests.head(url, timeout=LIMIT, allow_redirects=True).status_code,
        why_not,
        "a network or a proxy (HTTPS_PROXY); or a copy: download.source=file and "
        "download.path=FILE; or synthetic images: make demo",
    )


def weights(place: Place) -> Answer:
    """SqueezeNet's ImageNet weights, where they are still to be had."""
    wanted = place.param("train.squeezenet.weights", "imagenet")
    home = os.environ.get("TORCH_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch"
    )
    cached = Path(home) / "hub" / "checkpoints" / WEIGHTS_URL.rpartition("/")[2]
    why_not = None if wanted == "imagenet" else f"train.squeezenet.weights is {wanted}"
    if cached.exists():
        why_not = f"{cached} is here"
    elif (place.root / "data" / "features").exists():
        why_not = "data/features is here"
    return _reached(
        WEIGHTS_URL,
        lambda: _ask(WEIGHTS_URL),
        why_not,
        "a network or a proxy (HTTPS_PROXY); or a file: train.squeezenet.weights=FILE; or random "
        "ones: train.squeezenet.weights=none",
    )


def store(place: Place) -> Answer:
    """Whether MLflow's store can be read and written; found without MLflow, a slow import."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or OWN_STORE
    if uri.startswith(SQLITE):
        return _database(place.root / uri[len(SQLITE) :].split("?")[0])
    if uri.startswith(DATABASES):
        return _database_server(uri)
    if not uri.startswith(("http://", "https://")):
        if urlparse(uri).scheme in ("", "file"):
            return missing(
                f"MLFLOW_TRACKING_URI is {uri}, and MLflow no longer accepts a folder",
                "set it to sqlite:///FILE or the URL of a server, or unset it",
            )
        return note(f"MLFLOW_TRACKING_URI is {uri}, which is not looked at")
    import requests  # as MLflow does: it sends the name and password in an address

    health = f"{uri.rstrip('/')}/health"
    try:
        status = within(lambda: requests.get(health, timeout=LIMIT).status_code)
    except OSError as error:
        return missing(
            f"no MLflow answers at {uri}: {_cause(error)}",
            "start it, or unset MLFLOW_TRACKING_URI: the store is then mlflow.db here",
        )
    if status >= 400:
        return note(f"{uri} answers {status}", "look at MLFLOW_TRACKING_URI")
    return ok(f"MLflow answers at {uri}")


def port(place: Place) -> Answer:
    with socket.socket() as asked:
        asked.settimeout(LIMIT)
        if asked.connect_ex(("127.0.0.1", UI_PORT)) == 0:
            return note(f"{UI_PORT} is taken, by `make ui` or another", "make ui PORT=5001")
    return ok(f"{UI_PORT} is free for `make ui`")


def _reached(url: str, ask: Callable[[], int], why_not: str | None, mend: str) -> Answer:
    """A server that something is to be had from; `why_not` says why it isn't needed (any more)."""
    host = url.split("/")[2]
    try:
        status = within(ask)
    except OSError as error:
        found = f"{host} can't be reached: {_cause(error)}"
    else:
        if status < 400:
            return ok(f"{host} answers" + (f"; not needed, {why_not}" if why_not else ""))
        found = f"{host} answers {status}"
    return note(f"{found}; not needed, {why_not}") if why_not else missing(found, mend)


def _ask(url: str) -> int:
    """The status of a server's answer; OSError where there is none."""
    # Only http and https come here.
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310  # nosec B310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _cause(error: OSError) -> str:
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return f"no answer within {LIMIT:g} s"
    found = CAUSE.search(str(error))
    return next(filter(None, found.groups())) if found else type(error).__name__


def _database_server(uri: str) -> Answer:
    """Log in as MLflow does, by sqlalchemy and the driver that the address names."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        within(lambda: create_engine(uri).connect().close())
    except ModuleNotFoundError as error:
        package = WITH_LIBRARY.get(str(error.name), error.name)
        return missing(f"{uri} needs the package {error.name}", f"pip install {package}")
    except (SQLAlchemyError, TimeoutError) as error:
        cause = str(error).splitlines()[0]
        return missing(
            f"MLflow's store {uri} can't be opened: {cause}",
            "start it, or unset MLFLOW_TRACKING_URI: the store is then mlflow.db here",
        )
    return ok(f"MLflow's store {uri} can be opened")


def _database(file: Path) -> Answer:
    name, folder = shlex.quote(str(file)), shlex.quote(str(file.parent))
    rebuild = f"mv {name} {name}.old && cxr sync"
    if not file.exists():
        nearest = next(each for each in file.parents if each.exists())
        if not os.access(nearest, os.W_OK):
            found = f"{nearest} can't be written, where {file.name} would be"
            return missing(found, f"chmod u+w {shlex.quote(str(nearest))}")
        return ok(f"{file.name} is made by the first stage")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as base:
            n_runs = base.execute("SELECT count(*) FROM runs").fetchone()[0]
            revision = base.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    except sqlite3.Error as error:
        if "locked" in str(error):
            return note(f"{file} is locked by another program", "wait for it, or end it")
        return missing(f"{file} can't be read: {error}", rebuild)
    if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        return missing(f"{file} can't be written", f"chmod u+w {name} {folder}")
    last, earlier = _revisions()
    if revision != last:
        upgrade = f"cp {name} {name}.old && mlflow db upgrade {shlex.quote(f'{SQLITE}{file}')}"
        return missing(
            f"{file} has the schema {revision} of another MLflow, this one has {last}",
            upgrade if revision in earlier else rebuild,
        )
    return ok(f"{file.name} has {n_runs} runs, and can be written")


def _revisions() -> tuple[str, set[str]]:
    """The schema of the MLflow that is installed, and the earlier ones that it can upgrade.

    It is the revision that no other one follows.
    """
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("mlflow", name="mlflow")
    revisions: set[str] = set()
    followed: set[str] = set()
    for file in (Path(spec.origin).parent / "store/db_migrations/versions").glob("*.py"):
        for down, name in REVISION.findall(file.read_text()):
            (followed if down else revisions).add(name)
    return (revisions - followed).pop(), followed

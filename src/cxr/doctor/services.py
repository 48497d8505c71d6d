"""What is reached from here: data, pretrained weights, MLflow's store, the UI's port."""

from __future__ import annotations

import os
import re
import shlex
import socket
from pathlib import Path

from cxr.doctor.context import LIMIT, Place, started
from cxr.doctor.finding import Finding, missing, note, ok

# As torchvision has it, whose import takes seconds.
WEIGHTS_URL = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
DATABASES = ("postgresql", "mysql", "mssql")  # that MLflow logs to, besides sqlite
UI_PORT = 5000
CAUSE = re.compile(r"\[Errno -?\d+\] ([^'\")>]+)|(certificate verify failed)|(timed out)")
STORE_FIX = (
    "start it, install its database driver, or unset MLFLOW_TRACKING_URI to use mlflow.db in this "
    "clone"
)


def data_source(place: Place) -> Finding:
    """ChestMNIST's server, where the data is still to be downloaded."""
    from cxr.data.source import URLS

    source = place.param("download.source", "medmnist")
    why_not = "" if source == "medmnist" else f"download.source is {source}"
    if (place.root / "data" / "raw" / "chest.npz").exists():
        why_not = "data/raw exists"
    return _reached(
        URLS.get(place.param("download.size", 28), URLS[28]),
        why_not,
        "connect to a network or set HTTPS_PROXY; or use a copy: download.source=file and "
        "download.path=FILE; or synthetic images: make demo",
    )


def weights(place: Place) -> Finding:
    """SqueezeNet's ImageNet weights, where they are still to be downloaded."""
    wanted = place.param("train.squeezenet.weights", "imagenet")
    home = os.environ.get("TORCH_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch"
    )
    why_not = "" if wanted == "imagenet" else f"train.squeezenet.weights is {wanted}"
    for made in (
        Path(home) / "hub" / "checkpoints" / WEIGHTS_URL.rpartition("/")[2],
        place.root / "data" / "features",
    ):
        if made.exists():
            why_not = f"{made} exists"
    return _reached(
        WEIGHTS_URL,
        why_not,
        "connect to a network or set HTTPS_PROXY; or use a file: train.squeezenet.weights=FILE; "
        "or random weights: train.squeezenet.weights=none",
    )


def store(place: Place) -> Finding:
    """Whether MLflow's store answers; a stage itself reports a database of another MLflow."""
    from cxr.tracking import database
    from cxr.tracking.errors import reported

    uri = database.store_uri(place.root)
    file = database.sqlite_file(uri)
    if file is None:
        with reported(uri, "opened", STORE_FIX):
            started(lambda: _open(uri))(LIMIT)
        return ok(f"MLflow's store {uri} answers")
    if not file.exists():
        return ok(f"the first stage creates {file}")
    database.check_sqlite(file, uri)
    if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        names = f"{shlex.quote(str(file))} {shlex.quote(str(file.parent))}"
        return missing(f"{file} can't be written", f"chmod u+w {names}")
    return ok(f"{file} can be read and written")


def port(place: Place) -> Finding:
    with socket.socket() as asked:
        asked.settimeout(LIMIT)
        if asked.connect_ex(("127.0.0.1", UI_PORT)) == 0:
            return note(f"{UI_PORT} is in use by `make ui` or another program", "make ui PORT=5001")
    return ok(f"{UI_PORT} is free for `make ui`")


def _open(uri: str) -> None:
    """Ask a store as MLflow does, with the name and password of its address."""
    import requests
    from sqlalchemy import create_engine

    from cxr.tracking import database

    if uri.startswith(("http://", "https://")):
        requests.get(f"{uri.rstrip('/')}/health", timeout=LIMIT).raise_for_status()
    elif uri.startswith(DATABASES):  # MLflow itself would create tables
        create_engine(uri).connect().close()
    else:
        database.connect(uri).search_experiments(max_results=1)


def _reached(url: str, why_not: str, fix: str) -> Finding:
    """A server that something is downloaded from; `why_not` says why that isn't needed."""
    import requests  # as the stage does: it has certificates of its own

    host = url.split("/")[2]
    try:
        head = started(lambda: requests.head(url, timeout=LIMIT, allow_redirects=True))
        status = head(LIMIT).status_code
        found = f"{host} answers" + (f" {status}" if status >= 400 else "")
        is_reached = status < 400
    except OSError as error:
        cause = CAUSE.search(str(error))
        why = next(filter(None, cause.groups())) if cause else str(error)
        found, is_reached = f"{host} can't be reached: {why}", False
    if why_not:
        found = f"{found}; not needed because {why_not}"
    if is_reached:
        return ok(found)
    return note(found) if why_not else missing(found, fix)

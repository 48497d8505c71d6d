"""Checks of services: downloads of data and weights, MLflow's store, the UI's port."""

from __future__ import annotations

import os
import re
import shlex
import socket
from pathlib import Path

from cxr.doctor.context import TIMEOUT, Clone, in_background
from cxr.doctor.finding import Finding, missing, note, ok

# Copied from torchvision, which takes seconds to import.
WEIGHTS_URL = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
DATABASES = ("postgresql", "mysql", "mssql")  # that MLflow supports besides sqlite
UI_PORT = 5000
CAUSE = re.compile(r"\[Errno -?\d+\] ([^'\")>]+)|(certificate verify failed)|(timed out)")
STORE_FIX = (
    "start it, install its database driver, or unset MLFLOW_TRACKING_URI to use mlflow.db in this "
    "clone"
)


def data_source(clone: Clone) -> Finding:
    """Check ChestMNIST's server, if the data still has to be downloaded."""
    from cxr.data.source import URLS

    source = clone.param("download.source", "medmnist")
    why_not_needed = "" if source == "medmnist" else f"download.source is {source}"
    if (clone.root / "data" / "raw" / "chest.npz").exists():
        why_not_needed = "data/raw exists"
    return _server(
        URLS.get(clone.param("download.size", 28), URLS[28]),
        why_not_needed,
        "connect to a network or set HTTPS_PROXY; or use a copy: download.source=file and "
        "download.path=FILE; or synthetic images: make demo",
    )


def weights(clone: Clone) -> Finding:
    """Check the server of SqueezeNet's weights, if they still have to be downloaded."""
    source = clone.param("train.squeezenet.weights", "imagenet")
    home = os.environ.get("TORCH_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch"
    )
    why_not_needed = "" if source == "imagenet" else f"train.squeezenet.weights is {source}"
    for path in (
        Path(home) / "hub" / "checkpoints" / WEIGHTS_URL.rpartition("/")[2],
        clone.root / "data" / "features",
    ):
        if path.exists():
            why_not_needed = f"{path} exists"
    return _server(
        WEIGHTS_URL,
        why_not_needed,
        "connect to a network or set HTTPS_PROXY; or use a file: train.squeezenet.weights=FILE; "
        "or random weights: train.squeezenet.weights=none",
    )


def store(clone: Clone) -> Finding:
    """Check that MLflow's store responds; its schema version is checked by the stages."""
    from cxr.tracking import database
    from cxr.tracking.errors import reported

    uri = database.store_uri(clone.root)
    file = database.sqlite_file(uri)
    if file is None:
        with reported(uri, "opened", STORE_FIX):
            in_background(lambda: _open(uri))(TIMEOUT)
        return ok(f"MLflow's store {uri} answers")
    if not file.exists():
        return ok(f"the first stage creates {file}")
    database.check_sqlite(file, uri)
    if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        names = f"{shlex.quote(str(file))} {shlex.quote(str(file.parent))}"
        return missing(f"{file} can't be written", f"chmod u+w {names}")
    return ok(f"{file} can be read and written")


def port(clone: Clone) -> Finding:
    with socket.socket() as client:
        client.settimeout(TIMEOUT)
        if client.connect_ex(("127.0.0.1", UI_PORT)) == 0:
            return note(f"{UI_PORT} is in use by `make ui` or another program", "make ui PORT=5001")
    return ok(f"{UI_PORT} is free for `make ui`")


def _open(uri: str) -> None:
    """Connect to a store as MLflow does, with the user name and password of its URL."""
    import requests
    from sqlalchemy import create_engine

    from cxr.tracking import database

    if uri.startswith(("http://", "https://")):
        requests.get(f"{uri.rstrip('/')}/health", timeout=TIMEOUT).raise_for_status()
    elif uri.startswith(DATABASES):  # MLflow itself would create tables
        create_engine(uri).connect().close()
    else:
        database.connect(uri).search_experiments(max_results=1)


def _server(url: str, why_not_needed: str, fix: str) -> Finding:
    """Check a server for downloads; `why_not_needed` is empty if the download is needed."""
    import requests  # like the stages, since it has its own certificates

    host = url.split("/")[2]
    try:
        head = in_background(lambda: requests.head(url, timeout=TIMEOUT, allow_redirects=True))
        status = head(TIMEOUT).status_code
        found = f"{host} answers" + (f" {status}" if status >= 400 else "")
        is_reached = status < 400
    except OSError as error:
        cause = CAUSE.search(str(error))
        reason = next(filter(None, cause.groups())) if cause else str(error)
        found, is_reached = f"{host} can't be reached: {reason}", False
    if why_not_needed:
        found = f"{found}; not needed because {why_not_needed}"
    if is_reached:
        return ok(found)
    return note(found) if why_not_needed else missing(found, fix)

"""Where the store is, and what its database and its folder of artifacts need."""

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient

from cxr.locks import BaseFileLock, file_lock
from cxr.tracking.errors import TrackingError, reported

STORE_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlruns"
SQLITE = "sqlite:///"
# Where MLflow's database has addresses of artifacts.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
# A refusal by the database is told once, in a line of ours.
LOUD = {
    "alembic": logging.WARNING,
    "mlflow": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
}
WAIT = 2.0  # seconds for a database that is locked


def store_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the project's own sqlite file; a relative one starts at its root.

    MLflow itself would start at the working directory, which changes from command to command.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{STORE_FILE}"
    return f"{SQLITE}{root.resolve() / uri[len(SQLITE) :]}" if uri.startswith(SQLITE) else uri


def uses_own_store() -> bool:
    """Whether the store is the project's own, not one that the environment names."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def lock_of(root: Path) -> BaseFileLock:
    """Held while the store is opened: processes that create the same sqlite file break it."""
    return file_lock(root / f"{STORE_FILE}.lock")


def connect(uri: str) -> MlflowClient:
    """Runs and registered models in one store."""
    for name, level in LOUD.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def create(uri: str) -> None:
    """Make the database of a store that has none, whole or not at all; checks one that is there.

    MLflow can't go on with a file in which the process that made it was killed.
    """
    file = sqlite_file(uri)
    if file is None:
        return
    if file.exists():
        check_sqlite(file, uri)
        return
    part = file.with_name(f"{file.name}.part")
    for each in (part, part.with_name(f"{part.name}-journal")):
        each.unlink(missing_ok=True)
    connect(f"{SQLITE}{part}").search_experiments(max_results=1)
    part.replace(file)


def sqlite_file(uri: str) -> Path | None:
    """The file of a store that is one."""
    return Path(uri.removeprefix(SQLITE).split("?")[0]) if uri.startswith(SQLITE) else None


def check_sqlite(file: Path, uri: str) -> None:
    """Find a locked or damaged database at once; MLflow itself would try for long."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=WAIT)) as base:
            base.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.OperationalError as error:
        what = "another program has locked it; wait for it or end it"
        if "locked" not in str(error):
            what = f"{error}; move it away and run `cxr sync`, which rebuilds it"
        raise TrackingError(f"MLflow's store {uri} can't be read: {what}") from None
    except sqlite3.DatabaseError as error:
        raise TrackingError(
            f"MLflow's store {uri} is damaged ({error}); move it away and run `cxr sync`, "
            "which rebuilds it"
        ) from None


def artifacts_folder(root: Path, experiment: str) -> Path:
    """Where our own store keeps an experiment's artifacts."""
    return root.resolve() / ARTIFACTS_FOLDER / experiment


def relocate_artifacts(root: Path) -> int:
    """Let our own store look for its artifacts where it now stands; how many runs that moved.

    MLflow writes absolute addresses into its database and has no call to change them.
    """
    file = sqlite_file(store_uri(root))
    if file is None or not file.exists() or not uses_own_store():
        return 0
    moved = 0
    with (
        reported(store_uri(root), "written"),
        closing(sqlite3.connect(file, timeout=WAIT)) as base,
        base,
    ):
        places = base.execute("SELECT name, artifact_location FROM experiments").fetchall()
        for name, place in places:
            if is_stale_location(name, place, root):
                moved += _redirect(base, place, artifacts_folder(root, name).as_uri())
    return moved


def _redirect(base: sqlite3.Connection, there: str, here: str) -> int:
    """Rewrite an experiment's address and those of all its runs; how many runs."""
    n_runs = 0
    for table, column in ADDRESSES:
        done = base.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - ours
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (here, len(there) + 1, there, len(there) + 1, f"{there}/"),
        )
        n_runs += done.rowcount if table == "runs" else 0
    return n_runs


def is_stale_location(name: str, place: str, root: Path) -> bool:
    """Whether artifacts that our own store laid down are here, and looked for elsewhere."""
    address, here = urlparse(place), artifacts_folder(root, name)
    there = Path(unquote(address.path))
    ours = address.scheme in ("", "file") and there.parts[-2:] == here.parts[-2:]
    return ours and there != here and here.is_dir()

"""The location of the MLflow store, its database and its artifact folder."""

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
# Tables and columns of MLflow's database that hold URIs of artifacts.
URI_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Database errors are reported once, as TrackingError, so MLflow's own log of them is disabled.
LOG_LEVELS = {
    "alembic": logging.WARNING,
    "mlflow": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
}
TIMEOUT = 2.0  # seconds to wait for a locked database


def store_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, by default the project's own sqlite file.

    A relative path starts at the project's root; MLflow itself would start at the working
    directory, which differs between commands.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{STORE_FILE}"
    return f"{SQLITE}{root.resolve() / uri[len(SQLITE) :]}" if uri.startswith(SQLITE) else uri


def uses_own_store() -> bool:
    """Whether the store is the project's own rather than one set in the environment."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def lock_of(root: Path) -> BaseFileLock:
    """The lock held while the store is opened; processes that create it at once corrupt it."""
    return file_lock(root / f"{STORE_FILE}.lock")


def connect(uri: str) -> MlflowClient:
    """A client whose runs and registered models are in one store."""
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def create(uri: str) -> None:
    """Create a store's database atomically, or check an existing one.

    MLflow cannot open a file whose creation was interrupted.
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
    """The database file of a sqlite store, else None."""
    return Path(uri.removeprefix(SQLITE).split("?")[0]) if uri.startswith(SQLITE) else None


def check_sqlite(file: Path, uri: str) -> None:
    """Report a locked or damaged database at once; MLflow itself would retry for long.

    Opened for writing if the file allows it: sqlite may first have to roll back the transaction of
    a process that was killed in it.
    """
    try:
        with closing(
            sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=TIMEOUT)
        ) as base:
            base.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.OperationalError as error:
        what = "another program has locked it; wait for it or stop it"
        if "locked" not in str(error):
            what = f"{error}; move it away and run `cxr sync`, which rebuilds it"
        raise TrackingError(f"MLflow's store {uri} can't be read: {what}") from None
    except sqlite3.DatabaseError as error:
        raise TrackingError(
            f"MLflow's store {uri} is damaged ({error}); move it away and run `cxr sync`, "
            "which rebuilds it"
        ) from None


def artifacts_folder(root: Path, experiment: str) -> Path:
    """An experiment's artifact folder in the project's own store."""
    return root.resolve() / ARTIFACTS_FOLDER / experiment


def relocate_artifacts(root: Path) -> int:
    """Update the artifact URIs of the project's own store after a move; returns the number of runs.

    MLflow stores absolute URIs in its database and has no function to change them.
    """
    file = sqlite_file(store_uri(root))
    if file is None or not file.exists() or not uses_own_store():
        return 0
    moved = 0
    with (
        reported(store_uri(root), "written"),
        closing(sqlite3.connect(file, timeout=TIMEOUT)) as base,
        base,
    ):
        locations = base.execute("SELECT name, artifact_location FROM experiments").fetchall()
        for name, location in locations:
            if is_stale_location(name, location, root):
                moved += _relocate(base, location, artifacts_folder(root, name).as_uri())
    return moved


def _relocate(base: sqlite3.Connection, old: str, new: str) -> int:
    """Replace the prefix `old` of all artifact URIs; returns the number of changed runs."""
    n_runs = 0
    for table, column in URI_COLUMNS:
        cursor = base.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - constants
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )
        n_runs += cursor.rowcount if table == "runs" else 0
    return n_runs


def is_stale_location(name: str, location: str, root: Path) -> bool:
    """Whether the store has another location for artifacts that are in this project's folder."""
    uri, actual = urlparse(location), artifacts_folder(root, name)
    stored = Path(unquote(uri.path))
    ours = uri.scheme in ("", "file") and stored.parts[-2:] == actual.parts[-2:]
    return ours and stored != actual and actual.is_dir()

"""Broken MLflow stores: the stage keeps its result, and `cxr sync` logs its run later."""

import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import Pipeline

from cxr.tracking import database
from faults.disks import mount, tmpfs

# Breaks the store within a `with` block; yields environment variables for the stage.
Failure = Callable[[Pipeline], "contextmanager[dict[str, str]]"]
DATABASE = "mlflow.db"


@dataclass(frozen=True)
class Outcome:
    """A stage's result while its store was broken, and what `cxr sync` logged afterwards."""

    status: int
    notes: list[str]  # lines on standard error
    published: bool
    synced: int  # runs that `cxr sync` logged
    finished: int  # runs with status FINISHED after the sync

    @property
    def as_expected(self) -> bool:
        """The stage succeeded with one note on the store, and no run is missing in the end."""
        noted = len(self.notes) == 1 and self.notes[0].startswith("download: note: MLflow's store ")
        kept = (self.status, self.published) == (0, True)
        return noted and kept and (self.synced, self.finished) == (1, 1)


def run_and_sync(project: Pipeline, failure: Failure) -> Outcome:
    """Run `download` while the store is broken, then `cxr sync` with the store repaired."""
    with failure(project) as environment:
        done = subprocess.run(
            ["python", "stages/download.py"], cwd=project.folder, capture_output=True, text=True,
            env=project.environment() | environment,
        )  # fmt: skip
    synced = project.run("cxr", "sync")
    lines = synced.stdout.splitlines()
    return Outcome(
        done.returncode,
        done.stderr.splitlines(),
        (project.folder / "data/raw/chest.npz").is_file(),
        sum(line.split()[0] in ("rebuilt", "completed", "restored") for line in lines if line),
        _n_finished(project.folder / DATABASE),
    )


@contextmanager
def no_server(project: Pipeline) -> Iterator[dict[str, str]]:
    """A port that no server listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}


@contextmanager
def silent(project: Pipeline) -> Iterator[dict[str, str]]:
    """A server that accepts connections and never answers."""
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.getsockname()[1]}",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
        }


@contextmanager
def locked(project: Pipeline) -> Iterator[dict[str, str]]:
    """A database that another program keeps locked."""
    _create(project)
    with closing(sqlite3.connect(project.folder / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield {}


@contextmanager
def text(project: Pipeline) -> Iterator[dict[str, str]]:
    """A text file in place of the database."""
    (project.folder / DATABASE).write_text("this is text and not a database at all")
    yield {}
    (project.folder / DATABASE).unlink()


@contextmanager
def damaged(project: Pipeline) -> Iterator[dict[str, str]]:
    """A database with overwritten pages."""
    _create(project)
    file = project.folder / DATABASE
    content = bytearray(file.read_bytes())
    content[2048 : len(content) // 2] = bytes(len(content) // 2 - 2048)
    file.write_bytes(content)
    yield {}
    file.unlink()


@contextmanager
def incomplete(project: Pipeline) -> Iterator[dict[str, str]]:
    """A database without its tables, as left by MLflow killed while creating it."""
    with closing(sqlite3.connect(project.folder / DATABASE)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    yield {}
    (project.folder / DATABASE).unlink()


@contextmanager
def read_only(project: Pipeline) -> Iterator[dict[str, str]]:
    """A database on a file system that is mounted read-only."""
    _create(project)
    with tmpfs(project.folder / "disk", "8m") as disk:
        shutil.copy2(project.folder / DATABASE, disk / DATABASE)
        mount("-o", "remount,ro", str(disk))
        yield {"MLFLOW_TRACKING_URI": f"sqlite:///{disk / DATABASE}"}


@contextmanager
def too_small(project: Pipeline) -> Iterator[dict[str, str]]:
    """A disk that is too small for a new database."""
    with tmpfs(project.folder / "disk", "200k") as disk:
        yield {"MLFLOW_TRACKING_URI": f"sqlite:///{disk / DATABASE}"}


@contextmanager
def full(project: Pipeline) -> Iterator[dict[str, str]]:
    """A disk that has room for the database but not for another run."""
    _create(project)
    with tmpfs(project.folder / "disk", "8m") as disk:
        shutil.copy2(project.folder / DATABASE, disk / DATABASE)
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        yield {"MLFLOW_TRACKING_URI": f"sqlite:///{disk / DATABASE}"}


FAILURES: dict[str, Failure] = {
    "no server": no_server,
    "a server that never answers": silent,
    "a locked database": locked,
    "a text file": text,
    "overwritten pages": damaged,
    "an incomplete database": incomplete,
    "a read-only file system": read_only,
    "no space for a database": too_small,
    "no space for another run": full,
}


def _create(project: Pipeline) -> None:
    database.create(f"sqlite:///{project.folder / DATABASE}")


def _n_finished(file: Path) -> int:
    """Number of FINISHED runs, read with sqlite: MLflow caches databases within a process."""
    with closing(sqlite3.connect(file)) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
        ).fetchone()
        return int(count)

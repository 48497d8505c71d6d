"""MLflow's store broken in every way: the stage's result stands, and `cxr sync` tells it later."""

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

Broken = Callable[[Pipeline], "contextmanager[dict[str, str]]"]
OWN = "mlflow.db"


@dataclass(frozen=True)
class Outcome:
    """What became of a stage whose store was broken."""

    status: int
    notes: list[str]  # lines on standard error
    published: bool
    synced: int  # runs that `cxr sync` brought in once the store was mended
    finished: int  # runs FINISHED in the store then

    @property
    def holds(self) -> bool:
        """The work was done, the reason told once, and nothing is missing in the end."""
        told = len(self.notes) == 1 and self.notes[0].startswith("download: note: MLflow's store ")
        kept = (self.status, self.published) == (0, True)
        return told and kept and (self.synced, self.finished) == (1, 1)


def tried(project: Pipeline, broken: Broken) -> Outcome:
    """Run `download` while the store is broken, mend it, and sync."""
    with broken(project) as environment:
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
        _n_finished(project.folder / OWN),
    )


@contextmanager
def refusing(project: Pipeline) -> Iterator[dict[str, str]]:
    """A server that is not there."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}


@contextmanager
def silent(project: Pipeline) -> Iterator[dict[str, str]]:
    """A server that takes the call and never answers."""
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
    with closing(sqlite3.connect(project.folder / OWN, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield {}


@contextmanager
def words(project: Pipeline) -> Iterator[dict[str, str]]:
    """A file that is no database."""
    (project.folder / OWN).write_text("these are words, and no database at all")
    yield {}
    (project.folder / OWN).unlink()


@contextmanager
def damaged(project: Pipeline) -> Iterator[dict[str, str]]:
    """A database with pages overwritten."""
    _create(project)
    file = project.folder / OWN
    content = bytearray(file.read_bytes())
    content[2048 : len(content) // 2] = bytes(len(content) // 2 - 2048)
    file.write_bytes(content)
    yield {}
    file.unlink()


@contextmanager
def half_made(project: Pipeline) -> Iterator[dict[str, str]]:
    """A database without its tables: what a killed process of MLflow's own would leave."""
    with closing(sqlite3.connect(project.folder / OWN)) as base:
        base.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    yield {}
    (project.folder / OWN).unlink()


@contextmanager
def read_only(project: Pipeline) -> Iterator[dict[str, str]]:
    """A database on a file system that is mounted read-only."""
    _create(project)
    with tmpfs(project.folder / "elsewhere", "8m") as place:
        shutil.copy2(project.folder / OWN, place / OWN)
        mount("-o", "remount,ro", str(place))
        yield {"MLFLOW_TRACKING_URI": f"sqlite:///{place / OWN}"}


@contextmanager
def full_at_once(project: Pipeline) -> Iterator[dict[str, str]]:
    """A disk that has no room for a new database."""
    with tmpfs(project.folder / "elsewhere", "200k") as place:
        yield {"MLFLOW_TRACKING_URI": f"sqlite:///{place / OWN}"}


@contextmanager
def full_later(project: Pipeline) -> Iterator[dict[str, str]]:
    """A disk with room for the database and not for another run."""
    _create(project)
    with tmpfs(project.folder / "elsewhere", "8m") as place:
        shutil.copy2(project.folder / OWN, place / OWN)
        rest = shutil.disk_usage(place).free
        (place / "rest").write_bytes(bytes(rest))
        yield {"MLFLOW_TRACKING_URI": f"sqlite:///{place / OWN}"}


WAYS: dict[str, Broken] = {
    "a server that is not there": refusing,
    "a server that never answers": silent,
    "a locked database": locked,
    "words": words,
    "overwritten pages": damaged,
    "a database half made": half_made,
    "a read-only file system": read_only,
    "a full disk at first": full_at_once,
    "a full disk later": full_later,
}


def _create(project: Pipeline) -> None:
    database.create(f"sqlite:///{project.folder / OWN}")


def _n_finished(file: Path) -> int:
    """By sqlite itself: within one process MLflow keeps a database open that it has seen."""
    with closing(sqlite3.connect(file)) as base:
        return int(
            base.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()[0]
        )

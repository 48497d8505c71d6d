"""A stage's progress, in `.scratch/<fingerprint>/`, where DVC deletes nothing.

    attempt.json  id shared by all tries that resume one another, and their working copy
    work/         files from which an interrupted stage resumes
    outputs/      its outputs; complete once they include the stage's record, which is written last
    log.txt       its log

Finished outputs stay, hard-linked to the published files, until dvc.lock names them: a power
failure before that loses nothing.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cxr import hashing, locks
from cxr.documents import write_atomically
from cxr.errors import CxrError
from cxr.hashing import md5_of_file
from cxr.lineage import records
from cxr.lineage.records import Record
from cxr.locks import Timeout
from cxr.paths import LOCK_FILE
from cxr.progress import Say

FOLDER = ".scratch"
# Environment variables: another folder, to start from scratch; the project whose scratch folder and
# MLflow store a clone of it uses.
FOLDER_VARIABLE, PROJECT_VARIABLE = "CXR_SCRATCH", "CXR_PROJECT"
KEPT_SECONDS = 14 * 24 * 3600  # how long unfinished work is kept
ATTEMPT = "attempt.json"


@dataclass(frozen=True)
class Scratch:
    """The scratch folder of one fingerprint, locked by this process."""

    stage: str
    folder: Path
    attempt: str  # id shared by all tries that resume one another

    @property
    def work(self) -> Path:
        """A folder for files from which a later try can resume."""
        folder = self.folder / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def log(self) -> Path:
        """The log of all tries of the stage."""
        return self.folder / "log.txt"

    def finished(self) -> Record | None:
        """The record, if all outputs exist and match it; else None."""
        try:
            record = records.read(self.outputs / records.path_of(self.stage))
            is_complete = all(
                hashing.digest(self.outputs / path) == digest
                for path, digest in record.outputs.items()
            )
        except (CxrError, OSError):
            return None
        return record if is_complete else None

    def clear_outputs(self) -> None:
        """Delete the outputs of an earlier try."""
        shutil.rmtree(self.outputs, ignore_errors=True)
        self.outputs.mkdir(parents=True)

    def publish(self, outputs: tuple[str, ...], workspace: Path) -> None:
        """Hard-link the outputs into a working copy, each moved into place with a rename."""
        staging = folder_of(workspace) / f"publishing-{self.stage}"
        shutil.rmtree(staging, ignore_errors=True)
        for output in outputs:
            made, linked, target = self.outputs / output, staging / output, workspace / output
            linked.parent.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            # shutil.copytree would raise shutil.Error, which hides the errno of a full disk.
            for each in (made, *made.rglob("*")):
                copy = linked / each.relative_to(made)
                if each.is_dir():
                    copy.mkdir()
                else:
                    _link(each, copy)
            if target.is_dir():
                shutil.rmtree(target)
            linked.replace(target)
        shutil.rmtree(staging)

    def drop_work(self) -> None:
        """Delete the work folder, once the outputs are complete."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    def drop(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def drop_if_empty(self) -> None:
        """Delete everything if there is nothing to resume from."""
        if not any(self.work.iterdir()) and self.finished() is None:
            self.drop()


def folder_of(project: Path) -> Path:
    """The scratch folder of a project, created if missing."""
    folder = project / FOLDER
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def claimed(
    project: Path, workspace: Path, stage: str, fingerprint: str, say: Say
) -> Iterator[Scratch]:
    """Lock the scratch folder of a stage's fingerprint, with the files of an earlier try.

    Parameters
    ----------
    workspace : the working copy, in which one process at a time may run a stage. A process in
        another working copy with the same fingerprint waits, and then reuses the result.

    Raises
    ------
    CxrError
        If another process is running this stage in this working copy.
    """
    with (
        locks.exclusive(
            folder_of(workspace) / f"{stage}.lock", "running this stage in this working copy"
        ),
        _fingerprint_lock(folder_of(project), fingerprint, say) as folder,
    ):
        remove_stale(project, fingerprint)
        if _is_in_dvc_lock(folder):  # the result is to be made again, as with `dvc repro --force`
            shutil.rmtree(folder)
        yield Scratch(stage, folder, _attempt(folder, workspace, stage))


@contextmanager
def _fingerprint_lock(scratch: Path, fingerprint: str, say: Say) -> Iterator[Path]:
    lock = locks.file_lock(scratch / f"{fingerprint}.lock")
    try:
        locks.acquire(lock)
    except Timeout:
        say(
            f"waiting for {locks.holder(lock)}, which is making the same result in another "
            "working copy"
        )
        locks.acquire(lock, blocking=True)
    try:
        yield scratch / fingerprint
        if not (scratch / fingerprint).exists():
            Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def _attempt(folder: Path, workspace: Path, stage: str) -> str:
    path = folder / ATTEMPT
    attempt = _read(path)
    if attempt is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        attempt = {"attempt": uuid.uuid4().hex, "workspace": str(workspace), "stage": stage}
        write_atomically(path, json.dumps(attempt).encode() + b"\n")
    return attempt["attempt"]


def remove_stale(project: Path, own: str = "") -> None:
    """Delete results that dvc.lock has, and abandoned work, except those of one fingerprint."""
    scratch = folder_of(project)
    for folder in scratch.iterdir():
        if folder.name != own and (folder / ATTEMPT).exists() and _is_stale(folder):
            lock = locks.file_lock(scratch / f"{folder.name}.lock")
            with suppress(Timeout), lock.acquire(blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)


def _is_stale(folder: Path) -> bool:
    with suppress(OSError):
        return _is_in_dvc_lock(folder) or time.time() - folder.stat().st_mtime > KEPT_SECONDS
    return False


def _is_in_dvc_lock(folder: Path) -> bool:
    """Whether dvc.lock has the finished result, or the working copy no longer exists."""
    attempt = _read(folder / ATTEMPT)
    if attempt is None:
        return False
    record = folder / "outputs" / records.path_of(attempt["stage"])
    workspace = Path(attempt["workspace"])
    try:
        md5 = md5_of_file(record)
        return not workspace.is_dir() or md5 in (workspace / LOCK_FILE).read_text()
    except OSError:  # it is not finished, or there is no dvc.lock
        return False


def _read(path: Path) -> dict[str, str] | None:
    try:
        content = json.loads(path.read_text())
        return {key: str(content[key]) for key in ("attempt", "workspace", "stage")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _link(made: Path, linked: Path) -> None:
    try:
        os.link(made, linked)
    except OSError:  # on another file system, or on one without links
        shutil.copy2(made, linked)

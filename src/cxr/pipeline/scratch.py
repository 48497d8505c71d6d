"""What a stage has done so far, kept where DVC deletes nothing: `.scratch/<fingerprint>/`.

    attempt.json  names the tries that go on with one another, and their working copy
    work/         what a stage goes on from when it was broken off
    outputs/      its outputs; whole once the stage's record is among them, which comes last
    log.txt       what it said

What is finished stays, as second names of the published files, until DVC has taken it: a power
failure between the two costs nothing.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cxr import hashing, locks
from cxr.documents import write_whole
from cxr.errors import CxrError
from cxr.hashing import md5_of_file
from cxr.lineage import records
from cxr.lineage.records import Record
from cxr.locks import Timeout
from cxr.paths import LOCK_FILE

FOLDER = ".scratch"
ELSEWHERE = "CXR_SCRATCH"  # names another folder than the project's, for work that must begin anew
KEPT_SECONDS = 14 * 24 * 3600  # for which unfinished work waits to be taken up again
ATTEMPT = "attempt.json"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Scratch:
    """The scratch of one fingerprint, held by this process alone."""

    stage: str
    folder: Path
    attempt: str  # the same for all tries that go on with one another

    @property
    def work(self) -> Path:
        """A folder for what a later try can go on from."""
        place = self.folder / "work"
        place.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def log(self) -> Path:
        """What the stage said, in all its tries."""
        return self.folder / "log.txt"

    def finished(self) -> Record | None:
        """The record of outputs that are all there, as it says; else None."""
        try:
            record = records.read(self.outputs / records.path_of(self.stage))
            whole = all(
                hashing.digest(self.outputs / path) == digest
                for path, digest in record.outputs.items()
            )
        except (CxrError, OSError):
            return None
        return record if whole else None

    def clear_outputs(self) -> None:
        """Before a try writes its own."""
        shutil.rmtree(self.outputs, ignore_errors=True)
        self.outputs.mkdir(parents=True)

    def publish(self, outputs: tuple[str, ...], workspace: Path) -> None:
        """Give the outputs second names in a working copy, each renamed into place."""
        ready = folder_of(workspace) / f"publishing-{self.stage}"
        shutil.rmtree(ready, ignore_errors=True)
        for output in outputs:
            made, linked, place = self.outputs / output, ready / output, workspace / output
            linked.parent.mkdir(parents=True, exist_ok=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            # shutil.copytree would raise an error of its own, which loses what the disk refused.
            for each in (made, *made.rglob("*")):
                copy = linked / each.relative_to(made)
                if each.is_dir():
                    copy.mkdir()
                else:
                    _link(each, copy)
            if place.is_dir():
                shutil.rmtree(place)
            linked.replace(place)
        shutil.rmtree(ready)

    def drop_work(self) -> None:
        """Once the outputs are whole."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    def drop(self) -> None:
        """Keep nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def drop_if_idle(self) -> None:
        """Keep nothing where there is nothing to go on from."""
        if not any(self.work.iterdir()) and self.finished() is None:
            self.drop()


def folder_of(project: Path) -> Path:
    """The scratch of a project, made where it is not there."""
    folder = project / FOLDER
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def claimed(
    project: Path, workspace: Path, stage: str, fingerprint: str, tell: Tell
) -> Iterator[Scratch]:
    """Hold the scratch of a stage's fingerprint, with what an earlier try left there.

    Parameters
    ----------
    workspace : the working copy, where one process at a time may be in a stage. Another working
        copy with the same fingerprint waits, and finds the result when its turn comes.

    Raises
    ------
    CxrError
        Where a process is in this stage in this working copy.
    """
    with _alone(workspace, stage), _in_turn(folder_of(project), fingerprint, tell) as folder:
        _sweep(folder_of(project), fingerprint)
        if _is_taken(folder):  # DVC has its result, so that it is asked for anew
            shutil.rmtree(folder)
        yield Scratch(stage, folder, _attempt(folder, workspace, stage))


@contextmanager
def _alone(workspace: Path, stage: str) -> Iterator[None]:
    lock = locks.file_lock(folder_of(workspace) / f"{stage}.lock")
    try:
        locks.acquire(lock)
    except Timeout:
        raise CxrError(
            f"{locks.holder(lock)} is already running this stage in this working copy; "
            f"{locks.how_to_end(lock)}"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _in_turn(scratch: Path, fingerprint: str, tell: Tell) -> Iterator[Path]:
    lock = locks.file_lock(scratch / f"{fingerprint}.lock")
    try:
        locks.acquire(lock)
    except Timeout:
        tell(
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
    known = _read(path)
    if known is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        known = {"attempt": uuid.uuid4().hex, "workspace": str(workspace), "stage": stage}
        write_whole(path, json.dumps(known).encode() + b"\n")
    return known["attempt"]


def _sweep(scratch: Path, own: str) -> None:
    """Drop what DVC has taken, and what nobody came back to."""
    for folder in scratch.iterdir():
        if folder.name != own and (folder / ATTEMPT).exists() and _is_over(folder):
            lock = locks.file_lock(scratch / f"{folder.name}.lock")
            with suppress(Timeout), lock.acquire(blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)


def _is_over(folder: Path) -> bool:
    with suppress(OSError):
        return _is_taken(folder) or time.time() - folder.stat().st_mtime > KEPT_SECONDS
    return False


def _is_taken(folder: Path) -> bool:
    """Whether DVC has written the finished result into dvc.lock, or its working copy is gone."""
    attempt = _read(folder / ATTEMPT)
    if attempt is None:
        return False
    record = folder / "outputs" / records.path_of(attempt["stage"])
    workspace = Path(attempt["workspace"])
    try:
        md5 = md5_of_file(record)
        return not workspace.is_dir() or md5 in (workspace / LOCK_FILE).read_text()
    except OSError:  # it is not finished, or DVC has taken nothing at all
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

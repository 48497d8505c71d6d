"""Small disks that fill up."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import TINY, Pipeline, create

MEGABYTES = (1, 2, 3, 4)  # from no room for the store to room for all
PARAMS = TINY | {"download.phantom.train": 2000, "download.phantom.val": 400}
STAGES = ("download", "preprocess")


class CanNotBeTried(Exception):
    """This machine does not let us break that."""


@dataclass(frozen=True)
class Outcome:
    """What became of a stage on a disk that was too small, and once it was larger."""

    megabytes: int
    stage: str
    status: int
    lines: list[str]  # on standard error
    whole: bool  # each output is as it is on a large disk, or not there
    equal_later: bool  # and as there once the disk was large enough

    @property
    def holds(self) -> bool:
        """Done, or refused in a line of its own; MLflow's store may have its note before it."""
        refused = self.status == 2 and "nothing was published" in self.lines[-1]
        told = len(self.lines) <= 1 + all("note: MLflow" in line for line in self.lines[:-1])
        return self.whole and self.equal_later and told and (self.status == 0 or refused)


def full(folder: Path, megabytes: int) -> list[Outcome]:
    """The stages on a disk of so many megabytes; each is run again on a larger one."""
    expected = create(folder / "large", PARAMS)
    outcomes = []
    with tmpfs(folder / "small", "64m") as place:
        project = create(place / "p", PARAMS)
        base = shutil.disk_usage(place).used
        for stage in STAGES:
            assert expected.run("python", f"stages/{stage}.py").returncode == 0
            mount("-o", f"remount,size={base + megabytes * 2**20}", str(place))
            done = project.run("python", f"stages/{stage}.py")
            whole = _made(project, stage).items() <= _made(expected, stage).items()
            mount("-o", "remount,size=64m", str(place))
            again = project.run("python", f"stages/{stage}.py")
            equal = again.returncode == 0 and _made(project, stage) == _made(expected, stage)
            lines = done.stderr.splitlines()
            outcomes.append(Outcome(megabytes, stage, done.returncode, lines, whole, equal))
            base = shutil.disk_usage(place).used
    return outcomes


@contextmanager
def tmpfs(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own; CanNotBeTried where none may be mounted."""
    place.mkdir()
    with ExitStack() as mounted:
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
        mounted.callback(lambda: subprocess.run(["umount", str(place)], check=True))
        yield place


def mount(*arguments: str) -> None:
    """The `mount` command; CanNotBeTried where it may not."""
    if os.geteuid() != 0:
        raise CanNotBeTried("only root mounts file systems")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise CanNotBeTried(done.stderr.strip())


def _made(project: Pipeline, stage: str) -> dict[str, bytes]:
    """Content of each output, free of what has times."""
    places = {"download": ["data/raw"], "preprocess": ["data/processed", "data/statistics.json"]}
    found = [project.folder / place for place in places[stage]]
    files = [f for p in found for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
    return {str(f.relative_to(project.folder)): f.read_bytes() for f in files}

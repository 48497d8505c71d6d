"""Stages on disks that are too small for their outputs."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import TINY, Pipeline, create

MEGABYTES = (1, 2, 3, 4)  # from too small for MLflow's database to large enough for all
PARAMS = TINY | {"download.phantom.train": 2000, "download.phantom.val": 400}
STAGES = ("download", "preprocess")


class NotPossibleHere(Exception):
    """This machine does not allow the test to cause the failure."""


@dataclass(frozen=True)
class Outcome:
    """A stage's result on a small disk, and on a larger disk afterwards."""

    megabytes: int  # free space of the small disk
    stage: str
    status: int
    lines: list[str]  # on standard error
    no_partial_output: bool  # each output equals that on a large disk, or does not exist
    equal_on_retry: bool  # all outputs equal once the disk is large enough

    @property
    def as_expected(self) -> bool:
        """Finished, or failed with one line; a note about MLflow's store may precede it."""
        failed = self.status == 2 and "nothing was published" in self.lines[-1]
        brief = len(self.lines) <= 1 + all("note: MLflow" in line for line in self.lines[:-1])
        correct = self.no_partial_output and self.equal_on_retry
        return correct and brief and (self.status == 0 or failed)


def run_on_small_disk(folder: Path, megabytes: int) -> list[Outcome]:
    """Run the stages on a disk with `megabytes` of free space, each again on a larger one."""
    expected = create(folder / "large", PARAMS)
    outcomes = []
    with tmpfs(folder / "small", "64m") as disk:
        project = create(disk / "p", PARAMS)
        used = shutil.disk_usage(disk).used
        for stage in STAGES:
            assert expected.run("python", f"stages/{stage}.py").returncode == 0
            mount("-o", f"remount,size={used + megabytes * 2**20}", str(disk))
            done = project.run("python", f"stages/{stage}.py")
            no_partial = _outputs(project, stage).items() <= _outputs(expected, stage).items()
            mount("-o", "remount,size=64m", str(disk))
            retry = project.run("python", f"stages/{stage}.py")
            equal = retry.returncode == 0 and _outputs(project, stage) == _outputs(expected, stage)
            lines = done.stderr.splitlines()
            outcomes.append(Outcome(megabytes, stage, done.returncode, lines, no_partial, equal))
            used = shutil.disk_usage(disk).used
    return outcomes


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """Mount a new file system in memory; raise NotPossibleHere if that is not allowed."""
    folder.mkdir()
    with ExitStack() as mounted:
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
        mounted.callback(lambda: subprocess.run(["umount", str(folder)], check=True))
        yield folder


def mount(*arguments: str) -> None:
    """Run `mount`; raise NotPossibleHere if it fails."""
    if os.geteuid() != 0:
        raise NotPossibleHere("mounting a file system requires root")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise NotPossibleHere(done.stderr.strip())


def _outputs(project: Pipeline, stage: str) -> dict[str, bytes]:
    """Content of each output file that contains no times."""
    outputs = {"download": ["data/raw"], "preprocess": ["data/processed", "data/statistics.json"]}
    paths = [project.folder / output for output in outputs[stage]]
    files = [f for p in paths for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
    return {str(f.relative_to(project.folder)): f.read_bytes() for f in files}

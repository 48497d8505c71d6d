"""Slots on this machine, each of which runs one experiment at a time."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from cxr.errors import CxrError
from cxr.formatting import count
from cxr.lineage.repository import Repository
from cxr.sweep.experiment import Control, Ended, Site, Task, run_experiment
from cxr.sweep.plan import Place

FOLDER = ".dvc/tmp/sweep"
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


class LocalSlot:
    """Runs experiments in one clone, which shares the user's cache and MLflow store."""

    def __init__(self, root: Path, number: int, gpu: str) -> None:
        self.place = f"slot {number}"
        self._root = root
        folder, cache = root / FOLDER / str(number), Repository(root).cache
        self._site = Site(folder, root, cache, uses_remote=False, env={VISIBLE_GPUS: gpu})
        self._control = Control()

    def run(self, task: Task, log: Path) -> Ended:
        """Run an experiment; Stopped after `stop`."""
        return run_experiment(task, self._site, log, self._control)

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the running experiment."""
        self._control.send(signum)

    def stop(self) -> None:
        """Interrupt the running experiment."""
        self._control.stopping.set()


def slots(root: Path, place: Place, threads: int) -> list[LocalSlot]:
    """As many slots as `--jobs`; CxrError if the CPUs or GPUs do not suffice."""
    cores, jobs = len(os.sched_getaffinity(0)), place.local_jobs
    if place.cpus and threads * jobs > cores:
        raise CxrError(
            f"{count(jobs, 'experiment')} at a time with --cpus {threads} need {threads * jobs} "
            f"CPUs, and this machine has {cores}; lower --jobs or --cpus"
        )
    gpus = _gpus()
    per_gpu = int(1 / place.gpus) if place.gpus else 0
    if place.gpus and per_gpu * len(gpus) < jobs:
        raise CxrError(
            f"{count(jobs, 'experiment')} at a time with --gpus {place.gpus:g} do not fit: this "
            f"machine has {count(len(gpus), 'GPU')}; lower --jobs or --gpus"
        )
    if place.gpus is None and gpus:
        own = [gpus[n % len(gpus)] for n in range(jobs)]
    else:
        own = [gpus[n // per_gpu] if per_gpu else "" for n in range(jobs)]
    return [LocalSlot(root, n, gpu) for n, gpu in enumerate(own, 1)]


def remove_clones(root: Path) -> None:
    """Delete the clones; progress from which experiments resume is elsewhere."""
    shutil.rmtree(root / FOLDER, ignore_errors=True)


def _gpus() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them; asking torch would take a second."""
    visible = os.environ.get(VISIBLE_GPUS)
    if visible is not None:
        return [each for each in visible.split(",") if each]
    with suppress(OSError, subprocess.CalledProcessError):
        listing = subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, text=True)
        return [str(n) for n in range(listing.stdout.count("GPU "))]
    return []

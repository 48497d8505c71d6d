"""Slots on this machine, each a clone that shares the user's cache and MLflow store."""

import os
from pathlib import Path

from cxr.errors import CxrError
from cxr.formatting import count
from cxr.lineage.repository import Repository
from cxr.pipeline.resources import VISIBLE_GPUS, visible_gpus
from cxr.sweep.experiment import Site
from cxr.sweep.plan import Place

FOLDER = ".dvc/tmp/sweep"


def slots(root: Path, place: Place, threads: int) -> list[Site]:
    """As many slots as `--jobs`; CxrError if the CPUs or GPUs do not suffice."""
    cores, jobs = len(os.sched_getaffinity(0)), place.local_jobs
    if place.cpus and threads * jobs > cores:
        raise CxrError(
            f"{count(jobs, 'experiment')} at a time with --cpus {threads} need {threads * jobs} "
            f"CPUs, and this machine has {cores}; lower --jobs or --cpus"
        )
    gpus = visible_gpus()
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
    cache = Repository(root).cache
    return [
        Site(f"slot {n}", root / FOLDER / str(n), root, cache, env={VISIBLE_GPUS: gpu})
        for n, gpu in enumerate(own, 1)
    ]

"""What a sweep adds to `dvc exp run`, and what a second slot brings, with a stage that only waits.

On Ray it needs the extra (make cluster) and root, for a network of its own.
"""

import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import ray_cluster
import toy
from pipeline import Pipeline

from bench.measure import Row, faster

MOST_LOCAL, MOST_ON_RAY = 3.0, 5.0  # seconds per experiment beyond `dvc exp run`
STAGE_SECONDS = 3.0
LEAST_SPEEDUP = 1.7  # of two slots


def measure(n: int) -> list[Row]:
    """Time sweeps of `n` experiments."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        alone = _alone(toy.create(folder / "alone"), n)
        local = _per_experiment(folder / "local", n, "local", [])
        rows = [Row.with_limit("sweep: seconds beyond dvc exp run", local - alone, MOST_LOCAL)]
        if ray_cluster.why_not() is None:
            with ray_cluster.cluster(folder / "cluster") as cluster:
                cluster.add_node()
                inside = [*cluster.inside, "env", *(f"{k}={v}" for k, v in cluster.env.items())]
                there = _per_experiment(folder / "ray", n, ray_cluster.ADDRESS, inside)
            rows.append(Row.with_limit("the same on Ray", there - alone, MOST_ON_RAY))
        one, two = (
            _seconds(folder / f"jobs-{jobs}", 2 * n, "local", [], jobs, STAGE_SECONDS)
            for jobs in (1, 2)
        )
        return [*rows, faster("sweep: two slots vs. one", [two], [one], LEAST_SPEEDUP)]


def _alone(project: Pipeline, n: int) -> float:
    """Median seconds of `dvc exp run`, after a first one."""
    seconds = []
    for rate in range(n + 1):
        started = time.perf_counter()
        project.dvc("exp", "run", "--set-param", f"train.cnn.lr={rate}.5")
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])


def _per_experiment(folder: Path, n: int, on: str, inside: list[str]) -> float:
    """Seconds that each further experiment adds to a sweep."""
    one, more = (_seconds(folder / str(k), k, on, inside) for k in (1, n + 1))
    return (more - one) / n


def _seconds(
    folder: Path, n: int, on: str, inside: list[str], jobs: int = 1, stage_seconds: float = 0.0
) -> float:
    project = toy.create(folder)
    rates = [f"{rate}.5" for rate in range(n)]
    command = toy.command(project, on, str(jobs), str(stage_seconds), "1", *rates)
    started = time.perf_counter()
    subprocess.run(
        [*inside, *command], env=toy.environment(project), check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started

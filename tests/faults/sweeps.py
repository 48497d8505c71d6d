"""Break something during a sweep on a Ray cluster, run the same command again, and count."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import ray_cluster
import toy
from pipeline import Pipeline
from ray_cluster import ADDRESS, Cluster, Node

from cxr.lineage.repository import Repository
from cxr.sweep.results import outcomes
from cxr.sweep.runner import State

RATES, SECONDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 3.0
OUTAGE = 20.0  # seconds without the DVC remote
TIMEOUT = 240.0

Fault = Callable[[subprocess.Popen[bytes], Pipeline, list[Node]], object]


@dataclass(frozen=True)
class Outcome:
    """A sweep with a fault, and the same command until it ended well."""

    fault: str
    calls: int  # of the command
    results: int  # experiments with the right result
    repeated: int  # finished experiments that ran again
    stop_seconds: float  # from the fault to the end of the first call

    @property
    def as_expected(self) -> bool:
        is_soon = self.fault != "Ctrl-C" or self.stop_seconds < 10
        return self.results == len(RATES) and self.repeated == 0 and self.calls <= 2 and is_soon


def run_with_fault(fault: str, seed: int, folder: Path) -> Outcome:
    """Run a sweep on two nodes, of which the second uses the DVC remote, with one fault."""
    moment = random.Random(f"{fault} {seed}").uniform(0.0, 9.0)
    project = toy.create(folder / "p")
    cache = Repository(project.folder).cache
    cache.mkdir(parents=True)
    (folder / "remote").mkdir()
    project.dvc("remote", "add", "--local", "--default", "store", str(folder / "remote"))
    hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(cache)]
    with (
        _small_disk(folder / "cluster/node-2"),
        ray_cluster.cluster(folder / "cluster") as cluster,
    ):
        nodes = [cluster.add_node(), cluster.add_node(inside=hidden)]
        process = _start(cluster, project)
        while not toy.notes(folder):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(moment)
        broken = time.monotonic()
        FAULTS[fault](process, project, nodes)
        process.wait(TIMEOUT)
        stop_seconds, calls = time.monotonic() - broken, 1
        done = _done(project)
        starts = {name: toy.notes(folder)[name].count("started") for name in done}
        while process.returncode != 0 and calls < 3:
            process = _start(cluster, project)
            process.wait(TIMEOUT)
            calls += 1
        after = toy.notes(folder)
    repeated = sum(after[name].count("started") > starts[name] for name in done)
    return Outcome(fault, calls, _right(project), repeated, stop_seconds)


def _start(cluster: Cluster, project: Pipeline) -> subprocess.Popen[bytes]:
    arguments = (ADDRESS, "0", str(SECONDS), "1", *map(str, RATES))
    with open(project.folder.parent / "printed", "ab") as printed:
        return subprocess.Popen(
            [*cluster.inside, *toy.command(project, *arguments)], env=toy.environment(project),
            stdout=printed, stderr=printed,
        )  # fmt: skip


def _done(project: Pipeline) -> list[str]:
    return [name for name, _ in Repository(project.folder).experiments()]


def _right(project: Pipeline) -> int:
    """How many experiments have their result, once and in the cache."""
    plan = toy.plan(*RATES, place=toy.Place(), seconds=SECONDS)
    names = _done(project)
    state = State(plan, outcomes(plan, names, project.folder))
    return sum(
        names.count(each.name) == 1
        and state.outcomes[each.name]["cnn"].val == each.configuration["train.cnn.lr"]
        for each in plan.experiments
    )


def _kill_worker(process: subprocess.Popen[bytes], project: Pipeline, nodes: list[Node]) -> None:
    for pid in ray_cluster.workers(nodes[1].folder):
        os.kill(pid, signal.SIGKILL)


def _lose_remote(process: subprocess.Popen[bytes], project: Pipeline, nodes: list[Node]) -> None:
    """A file in its place, which DVC can neither read as a folder nor replace."""
    remote = project.folder.parent / "remote"
    remote.rename(remote.with_name("gone"))
    remote.touch()
    time.sleep(OUTAGE)
    remote.unlink()
    remote.with_name("gone").rename(remote)


def _fill_disk(process: subprocess.Popen[bytes], project: Pipeline, nodes: list[Node]) -> None:
    with suppress(OSError), open(nodes[1].folder / "full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


FAULTS: dict[str, Fault] = {
    "kill -9 of a worker": _kill_worker,
    "kill -9 of a node": lambda process, project, nodes: nodes[1].kill(),
    "kill -9 of the sweep": lambda process, project, nodes: process.kill(),
    "Ctrl-C": lambda process, project, nodes: process.send_signal(signal.SIGINT),
    "no DVC remote for 20 s": _lose_remote,
    "a full disk on a node": _fill_disk,
}

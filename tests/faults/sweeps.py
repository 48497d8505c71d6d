"""Break something during a sweep, run the same command again, and count what is lost."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import ray_cluster
import requests
import toy
from mlflow import MlflowClient
from pipeline import Pipeline, create
from ray_cluster import ADDRESS, Cluster, Node

from cxr.lineage.repository import Repository
from cxr.sweep.plan import Place
from cxr.sweep.results import outcomes

RATES, SECONDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 3.0
OUTAGE = 20.0  # seconds without the DVC remote
TIMEOUT = 240.0


@dataclass(frozen=True)
class Outcome:
    """A sweep with a fault, and the same command until it ended well."""

    fault: str
    calls: int  # of the command
    n: int  # experiments
    results: int  # experiments with the right result
    repeated: int  # finished experiments that ran again, or are in MLflow twice
    stop_seconds: float  # from the fault to the end of the first call

    @property
    def as_expected(self) -> bool:
        is_soon = self.fault != "Ctrl-C" or self.stop_seconds < 10
        return self.results == self.n and self.repeated == 0 and self.calls <= 2 and is_soon


@dataclass(frozen=True)
class Sweep:
    """A running sweep on two nodes, of which the second uses the DVC remote."""

    process: subprocess.Popen[bytes]
    nodes: list[Node]
    remote: Path


def lose(remote: Path, seconds: float) -> None:
    """Put a file in place of the remote, which DVC can neither read as a folder nor replace."""
    away = remote.rename(remote.with_name("away"))
    remote.touch()
    time.sleep(seconds)
    remote.unlink()
    away.rename(remote)


def fill_disk(node: Node) -> None:
    """Leave no space in the folder of a node."""
    with suppress(OSError), open(node.folder / "full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))


ON_A_CLUSTER: dict[str, Callable[[Sweep], object]] = {
    "kill -9 of a worker": lambda sweep: sweep.nodes[1].kill_worker(),
    "kill -9 of a node": lambda sweep: sweep.nodes[1].kill(),
    "kill -9 of the sweep": lambda sweep: sweep.process.kill(),
    "Ctrl-C": lambda sweep: sweep.process.send_signal(signal.SIGINT),
    "no DVC remote for 20 s": lambda sweep: lose(sweep.remote, OUTAGE),
    "a full disk on a node": lambda sweep: fill_disk(sweep.nodes[1]),
}
NO_SERVER = "kill -9 of the MLflow server"
FAULTS = (*ON_A_CLUSTER, NO_SERVER)


def run_with_fault(fault: str, seed: int, folder: Path) -> Outcome:
    """Run a sweep with one fault, at a moment that the seed determines."""
    moment = random.Random(f"{fault} {seed}").random()
    if fault == NO_SERVER:
        return kill_server(create(folder / "p"), "train.cnn.lr=0.001,0.002", 90 * moment)
    project = toy.create(folder / "p")
    with small_disk(folder / "cluster/node-2"), ray_cluster.cluster(folder / "cluster") as cluster:
        hidden = without(Repository(project.folder).cache)
        nodes = [cluster.add_node(), cluster.add_node(inside=hidden)]
        sweep = Sweep(_start(cluster, project), nodes, set_remote(project))
        while not toy.notes(folder):
            assert sweep.process.poll() is None
            time.sleep(0.05)
        time.sleep(9 * moment)
        broken = time.monotonic()
        ON_A_CLUSTER[fault](sweep)
        status, calls = sweep.process.wait(TIMEOUT), 1
        stop_seconds = time.monotonic() - broken
        before, done = toy.notes(folder), _done(project)
        while status != 0 and calls < 3:
            status, calls = _start(cluster, project).wait(TIMEOUT), calls + 1
        after = toy.notes(folder)
    repeated = sum(after[name].count("started") > before[name].count("started") for name in done)
    return Outcome(fault, calls, len(RATES), _right(project), repeated, stop_seconds)


def kill_server(
    project: Pipeline, values: str, seconds: float, *, comes_back: bool = True
) -> Outcome:
    """Kill MLflow's server some seconds after a sweep began to work, and log the rest by `sync`.

    Parameters
    ----------
    values : of two configurations, which are trained with one seed.
    comes_back : whether the server is started again; otherwise the project's own store is used.
    """
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    cxr = str(Path(sys.executable).parent / "cxr")
    own = {
        "cwd": project.folder,
        "env": project.environment() | {"MLFLOW_TRACKING_URI": address},
        "stdout": subprocess.DEVNULL,
    }
    with _server(address, project.folder):
        sweep = subprocess.Popen([cxr, "sweep", "-S", values, "--seeds", "1"], **own)
        while not list(project.folder.glob(".scratch/*/work")):
            assert sweep.poll() is None
            time.sleep(0.1)
        time.sleep(seconds)
    killed = time.monotonic()
    status, stop_seconds = sweep.wait(TIMEOUT), time.monotonic() - killed
    if not comes_back:
        own["env"], address = project.environment(), f"sqlite:///{project.folder}/mlflow.db"
    with _server(address, project.folder) if comes_back else nullcontext():
        subprocess.run([cxr, "sync"], check=True, **own)
        names = _logged(MlflowClient(address))
    logged = [names[name] for name in _done(project) if name.startswith("sweep-")]
    calls = 1 if status == 0 else 3  # no experiment may depend on the server
    n_twice = sum(n > 1 for n in logged)
    return Outcome(NO_SERVER, calls, 2, sum(map(bool, logged)), n_twice, stop_seconds)


def set_remote(project: Pipeline) -> Path:
    """Create a DVC remote beside the project."""
    remote = project.folder.with_name("remote")
    remote.mkdir()
    project.dvc("remote", "add", "--local", "--default", "store", str(remote))
    return remote


def without(folder: Path) -> list[str]:
    """A command that runs another which sees an empty folder here."""
    folder.mkdir(parents=True, exist_ok=True)
    return ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 64 MB at a folder."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _server(address: str, folder: Path) -> Iterator[None]:
    """MLflow's server, killed at the end with its children."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
        "--port", address.rpartition(":")[2], "--backend-store-uri", f"sqlite:///{folder}/served.db",
        "--artifacts-destination", str(folder / "served"), "--workers", "1",
    ]  # fmt: skip
    with open(folder / "served.log", "ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(requests.ConnectionError):
                if requests.get(f"{address}/health", timeout=5).ok:
                    break
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _logged(store: MlflowClient) -> Counter[str]:
    """How many finished runs of `evaluate` each experiment has."""
    ids = [each.experiment_id for each in store.search_experiments()]
    runs = store.search_runs(ids, "attributes.status = 'FINISHED'")
    of_stage = [run for run in runs if run.info.run_name.startswith("evaluate (")]
    return Counter(run.data.tags.get("cxr.experiment", "") for run in of_stage)


def _start(cluster: Cluster, project: Pipeline) -> subprocess.Popen[bytes]:
    arguments = (ADDRESS, "0", str(SECONDS), "1", *map(str, RATES))
    with open(project.folder.parent / "printed", "ab") as printed:
        return subprocess.Popen(
            [*cluster.inside, *toy.command(project, *arguments)],
            env=toy.environment(project) | cluster.env, stdout=printed, stderr=printed,
        )  # fmt: skip


def _done(project: Pipeline) -> list[str]:
    return [name for name, _ in Repository(project.folder).experiments()]


def _right(project: Pipeline) -> int:
    """How many experiments have their result, once and in the cache."""
    plan = toy.plan(*RATES, place=Place(), seconds=SECONDS)
    names = _done(project)
    found = outcomes(plan, names, project.folder)
    return sum(
        names.count(each.name) == 1
        and found[each.name]["cnn"].val == each.configuration["train.cnn.lr"]
        for each in plan.experiments
    )

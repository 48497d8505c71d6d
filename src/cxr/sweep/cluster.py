"""Slots on the nodes of a Ray cluster. The only file that imports Ray, which is an optional extra.

The driver itself places each slot on a node, as an actor that keeps its CPUs and GPU until the
sweep ends. So it always knows what runs where, and Ray's own queue stays empty.
"""

import errno
import hashlib
import logging
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from inspect import getfile
from pathlib import Path
from threading import Event, Lock
from typing import IO, Any

from dvc.config import Config
from dvc.repo import Repo

from cxr import git, locks
from cxr.errors import CxrError, one_line
from cxr.formatting import count
from cxr.hashing import md5_of_file, md5_of_folder
from cxr.lineage.facts import PACKAGES
from cxr.lineage.records import JOB_VARIABLE
from cxr.lineage.repository import Repository
from cxr.lineage.snapshot import Packed, Snapshot, unpack
from cxr.pipeline.resources import VISIBLE_GPUS
from cxr.progress import Say
from cxr.sweep.experiment import (
    Lost,
    Site,
    Stopped,
    reason,
    tries,
)
from cxr.sweep.plan import Experiment, Place

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tries to connect, a second each; with a wrong token all of them are made.
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
try:
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise CxrError(
        "--on needs Ray, which is not installed; run `make cluster` here and on every node"
    ) from None

NODE_FOLDER = "CXR_NODE_FOLDER"  # environment variable of a node: where its experiments run
AUTO = "auto"
PASSED = ("MLFLOW_TRACKING_", "AWS_")  # prefixes of environment variables that nodes need
FULL = os.strerror(errno.ENOSPC)
CONNECT_SECONDS = 5.0
READY_SECONDS = 60.0  # to start a process on a node, which imports Ray and DVC


@dataclass(frozen=True)
class Facts:
    """What must be equal on all nodes."""

    python: str
    packages: dict[str, str]
    code: str  # MD5 of the installed code that runs experiments

    def difference(self, head: "Facts") -> str | None:
        """The first difference from the head, in words; None if there is none."""
        if self.python != head.python:
            return f"its Python is {self.python}, not {head.python}"
        for name, version in head.packages.items():
            if self.packages[name] != version:
                return f"its {name} is {self.packages[name]}, not {version}"
        return "its code of sweeps is another (git pull)" if self.code != head.code else None


def facts_here() -> Facts:
    """The facts of this machine."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    packages = {name: versions.get(name, "missing") for name in PACKAGES}
    others = (Path(getfile(each)) for each in (Snapshot, locks, git))
    code = [*Path(__file__).parent.glob("*.py"), *others]
    md5s = {path.name: md5_of_file(path) for path in code}
    return Facts(platform.python_version(), packages, md5_of_folder(md5s))


class Worker:
    """The process of a slot on its node.

    Parameters
    ----------
    gpu : whether it has a share of a GPU.
    env : environment variables of the head.
    """

    def __init__(self, project: str, slot: int, gpu: bool, env: dict[str, str]) -> None:
        default = Path.home() / ".cache/cxr" / socket.gethostname()
        folder = Path(os.environ.get(NODE_FOLDER) or default) / project
        job = os.environ.get("SLURM_JOB_ID") or f"ray {ray.get_runtime_context().get_job_id()}"
        # Without a GPU, Ray leaves the variable unset, and all GPUs would be visible.
        own = env | {JOB_VARIABLE: job} | ({} if gpu else {VISIBLE_GPUS: ""})
        os.environ.pop("OMP_NUM_THREADS", None)  # from Ray; a local experiment has none
        self._site = Site("", folder / f"slot-{slot}", folder, None, own)

    def facts(self) -> Facts:
        return facts_here()

    def sees(self, file: Path) -> bool:
        """Whether a file of the head exists here, too."""
        return file.exists()

    def run(
        self, snapshot: Snapshot, experiment: Experiment, cache: Path | None
    ) -> tuple[Packed | str | None, bytes]:
        """Run an experiment: its commit, why it failed, or None if it was stopped; and its log.

        Parameters
        ----------
        cache : the shared cache; None to use a cache of the node's own and the DVC remote.
        """
        self._site.cache = cache
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "log")
            ended: Packed | str | None = None
            with suppress(Stopped):
                try:
                    ended = self._site.run(snapshot, experiment, log)
                except (CxrError, OSError) as error:  # of a stage, git or the disk
                    ended = one_line(error)
            return ended, log.read_bytes() if log.exists() else b""

    def stop(self) -> None:
        self._site.stop()


class RaySlot:
    """Runs experiments in a process on one node."""

    def __init__(
        self, node: dict[str, Any], number: int, cpus: int, gpus: float, head: "Head"
    ) -> None:
        self.host = node["NodeManagerHostname"]
        self.place = f"{self.host} {number}"
        self.node = node["NodeID"]
        self.cache: Path | None = None
        self._number, self._cpus, self._gpus, self._head = number, cpus, gpus, head
        self._stopping = Event()
        self._worker: Any = None  # its process; None if that has died
        self.start()

    def start(self) -> None:
        """Start the process, which takes some seconds."""
        worker = ray.remote(Worker).options(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_concurrency=2,  # to run an experiment, and to stop it
            scheduling_strategy=NodeAffinitySchedulingStrategy(self.node, soft=False),
        )
        self._worker = worker.remote(
            self._head.project, self._number, bool(self._gpus), self._head.env
        )
        self.facts = self._worker.facts.remote()

    def sees(self, file: Path) -> bool:
        """Whether the node has a file of the head."""
        return bool(ray.get(self._worker.sees.remote(file), timeout=READY_SECONDS))

    def run(self, snapshot: Snapshot, experiment: Experiment, log: Path) -> Packed:
        """Run an experiment; Stopped after `stop`, Lost if its process has died."""
        if self._worker is None:
            self._start_again()
        ended: Packed | str | None
        try:
            ended, printed = ray.get(self._worker.run.remote(snapshot, experiment, self.cache))
        except RayTaskError:  # a bug
            raise
        except RayError as error:
            self._worker = None
            raise Lost(one_line(error)) from None
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(printed)
        if ended is None:
            raise Stopped
        if isinstance(ended, str):
            if FULL in ended or FULL.encode() in printed:
                raise Lost(FULL.lower(), for_good=True)
            raise CxrError(ended)
        if self.cache is None:
            self._head.fetch(ended, self._stopping)
        return ended

    def _start_again(self) -> None:
        """Start a new process on the node; Lost for good if the node or the head is gone."""
        try:
            if not self._head.is_alive():
                raise Lost("the head is gone", for_good=True)
            self.start()
            for _ in range(int(READY_SECONDS)):
                if self._stopping.is_set():
                    raise Stopped
                if ray.wait([self.facts], timeout=1)[0]:
                    ray.get(self.facts)
                    return
            raise Lost("the node does not answer", for_good=True)
        except RayError as error:
            raise Lost(one_line(error), for_good=True) from None

    def send(self, signum: signal.Signals) -> None:
        """Nothing: Ctrl-Z suspends only programs of this machine."""

    def stop(self) -> None:
        """Interrupt the running experiment."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.stop.remote()

    def close(self) -> None:
        """End the process, and free its CPUs and GPU."""
        ray.kill(self._worker)


class Head:
    """The machine on which the sweep was started: what its nodes need from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._address = ray.get_runtime_context().gcs_address
        self.project = f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"
        self.env = {k: v for k, v in os.environ.items() if k.startswith(PASSED)}
        who = git.run(root, "var", "GIT_COMMITTER_IDENT").rpartition(">")[0].split(" <")
        for role in ("AUTHOR", "COMMITTER"):  # DVC refuses to commit without
            self.env |= {f"GIT_{role}_NAME": who[0], f"GIT_{role}_EMAIL": who[1]}
        self._lock = Lock()

    def is_alive(self) -> bool:
        """Whether the head of the cluster answers; Ray itself would ask for a minute."""
        try:
            _reach(self._address)
        except OSError:
            return False
        return True

    def fetch(self, packed: Packed, stopping: Event) -> None:
        """Fetch an experiment's files from the DVC remote; CxrError if it does not answer."""
        unpack(packed, self.root)
        for _ in tries(stopping):
            try:
                with self._lock:
                    Repo(str(self.root)).fetch(revs=[packed.commit])
                return
            except Exception as error:  # of whatever library reads this remote
                why = one_line(error)
        raise CxrError(f"its files can't be fetched from the DVC remote: {why}")

    def share_cache(self, slots: list[RaySlot], say: Say) -> None:
        """Find out which nodes have this machine's cache; push it for the others."""
        cache = Repository(self.root).cache
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, prefix="sweep-") as marker:
            for each in slots:
                each.cache = cache if each.sees(Path(marker.name)) else None
        if others := {each.host for each in slots if each.cache is None}:
            if not Config(str(self.root / ".dvc"))["core"].get("remote"):
                raise CxrError(
                    f"{', '.join(sorted(others))} can't see DVC's cache {cache}; share that folder "
                    "(dvc cache dir FOLDER), or set a DVC remote (dvc remote add --default)"
                )
            say(f"sweep: pushing the cache for {', '.join(sorted(others))}")
            done = subprocess.run(
                [sys.executable, "-m", "dvc", "push", "--run-cache"], cwd=self.root,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                raise CxrError(f"`dvc push --run-cache` failed: {reason(done.stderr)}")


@contextmanager
def slots(root: Path, place: Place, threads: int, say: Say) -> Iterator[list[RaySlot]]:
    """Slots on all nodes that are like this machine; CxrError if there are none."""
    _connect(place.on)
    try:
        head = Head(root)
        usable = _like_here(_start(place, threads, head), say)
        head.share_cache(usable, say)
        yield usable
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    if address != AUTO:
        if not host or not port.isdecimal():
            raise CxrError(f"--on {address} is none of local, auto and HOST:PORT of a Ray cluster")
        try:
            _reach(address)
        except (OSError, OverflowError) as error:
            raise CxrError(
                f"--on {address}: no Ray cluster answers ({error}); start one with "
                "`ray start --head` (docs/cluster.md)"
            ) from None
    with _captured_stderr() as printed:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # Ray raises many: another version, a wrong token, no node here
            printed.seek(0)
            if b"AuthToken" in printed.read():
                raise CxrError(
                    f"--on {address}: the cluster refuses the token; set RAY_AUTH_MODE=token and "
                    "RAY_AUTH_TOKEN_PATH as on its nodes"
                ) from None
            raise CxrError(f"--on {address}: {' '.join(str(error).split())}") from None


def _reach(address: str) -> None:
    """OSError if nothing listens at `HOST:PORT`."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


@contextmanager
def _captured_stderr() -> Iterator[IO[bytes]]:
    """A file that receives what Ray's C++ code prints while it connects."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _start(place: Place, threads: int, head: Head) -> list[RaySlot]:
    """Start as many slots as fit, at most `--jobs`, spread over the nodes."""
    nodes = [each for each in ray.nodes() if each["Alive"]]
    has_gpus = any(each["Resources"].get("GPU") for each in nodes)
    gpus = float(has_gpus) if place.gpus is None else place.gpus
    places = []
    for n, node in enumerate(nodes):
        has = node["Resources"]
        fit = min(has.get("CPU", 0) // threads, has.get("GPU", 0) // gpus if gpus else math.inf)
        places += [(number, n) for number in range(1, int(fit) + 1)]
    places.sort()  # the first slot of each node, then the second of each, …
    if not places:
        have = "; ".join(_resources(each) for each in nodes)
        raise CxrError(
            f"no node has {count(threads, 'CPU')} and {gpus:g} GPUs for an experiment; "
            f"the cluster has {have}; lower --cpus or --gpus"
        )
    return [RaySlot(nodes[n], number, threads, gpus, head) for number, n in places[: place.jobs]]


def _resources(node: dict[str, Any]) -> str:
    cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
    return f"{node['NodeManagerHostname']}: {count(cpus, 'CPU')}, {count(gpus, 'GPU')}"


def _like_here(started: list[RaySlot], say: Say) -> list[RaySlot]:
    """The slots whose node has this machine's Python, packages and code; others are named."""
    ray.wait([each.facts for each in started], num_returns=len(started), timeout=READY_SECONDS)
    here, usable, refused = facts_here(), [], dict[str, str]()
    for each in started:
        try:
            why = ray.get(each.facts, timeout=0).difference(here)
        except GetTimeoutError:
            why = f"its process did not start in {READY_SECONDS:.0f} s; is it busy?"
        except RayError as error:
            why = str(error).strip().splitlines()[-1].strip()
        if why is None:
            usable.append(each)
        else:
            each.close()
            refused[each.node] = f"{each.host} is not used: {why}"
    for line in refused.values():
        say(f"sweep: {line}")
    if not usable:
        raise CxrError(f"no node can run experiments; {next(iter(refused.values()))}")
    return usable

"""A Ray cluster of several nodes on this machine, in a network of its own.

Ray listens on every interface, and whoever reaches it can run code. So it is started in a network
namespace that has the loopback interface alone.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

ADDRESS = "127.0.0.1:6379"
SECONDS = 90.0  # until a node is up
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "1000",  # a lost node is noticed in seconds
    "RAY_health_check_failure_threshold": "3",
}


def why_not() -> str | None:
    """Why no cluster can be started here; None if one can."""
    if find_spec("ray") is None:
        return "Ray is not installed (make cluster)"
    alone = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return "network namespaces need root" if alone.returncode else None


class Cluster:
    """Nodes in one network namespace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-")  # paths of sockets are short
        folder.mkdir(parents=True, exist_ok=True)
        token = folder / "token"
        token.write_text("the-token-of-this-cluster-has-at-least-32-characters")
        # Environment variables of nodes, and of programs that use the cluster.
        self.env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self._namespace = subprocess.Popen(["unshare", "-n", "sleep", "86400"])
        self._nodes: list[subprocess.Popen[bytes]] = []
        deadline = time.monotonic() + 10
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self._namespace.pid}/ns/net").readlink() == own:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        subprocess.run([*self.inside, "ip", "link", "set", "lo", "up"], check=True)

    @property
    def inside(self) -> list[str]:
        """A command that runs another in the cluster's network."""
        return ["nsenter", f"--net=/proc/{self._namespace.pid}/ns/net"]

    def add_node(
        self, cpus: int = 1, env: dict[str, str] | None = None, inside: Sequence[str] = ()
    ) -> "Node":
        """Start a node, the head first; its experiments run in `node.folder`.

        Parameters
        ----------
        inside : a command that runs the node.
        """
        number = len(self._nodes) + 1
        folder = self.folder / f"node-{number}"
        own_only = ["--include-dashboard=false", f"--temp-dir={self._temporary.name}"]
        where = ["--head", "--port=6379", *own_only] if number == 1 else [f"--address={ADDRESS}"]
        command = [
            *self.inside, *inside, sys.executable, "-m", "ray.scripts.scripts", "start",
            "--block", *where,
            f"--node-ip-address=127.0.0.{number}", f"--num-cpus={cpus}", "--num-gpus=0",
            "--disable-usage-stats", "--object-store-memory=100000000",
        ]  # fmt: skip
        own = os.environ | SETTINGS | self.env | {"CXR_NODE_FOLDER": str(folder)} | (env or {})
        log = self.folder / f"node-{number}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, env=own, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._nodes.append(process)
        node = Node(folder, process)
        deadline = time.monotonic() + SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.1)
        return node

    def stop(self) -> None:
        """Kill every node, and whatever still runs in the network."""
        for each in self._nodes:
            with suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
        own = Path(f"/proc/{self._namespace.pid}/ns/net").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "ns/net").readlink() == own:
                    os.kill(int(process.name), signal.SIGKILL)
        for each in (*self._nodes, self._namespace):
            each.wait()
        self._temporary.cleanup()


class Node:
    """One node of the cluster."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self._process = process

    def kill(self) -> None:
        """Kill the node's processes as a power failure does, with the experiments they run."""
        for pid in (*_with_folder(self.folder), *_children(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_worker(self) -> None:
        """Kill the Ray workers that run experiments on the node."""
        for pid in _with_folder(self.folder):
            with suppress(OSError):
                if b"ray::Worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def _with_folder(folder: Path) -> list[int]:
    """Processes of a node, by the environment that they inherited."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"CXR_NODE_FOLDER={folder}".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def _children(pid: int) -> list[int]:
    listing = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    direct = list(map(int, listing.stdout.split()))
    return [*direct, *(each for child in direct for each in _children(child))]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster without nodes, stopped at the end."""
    own = Cluster(folder)
    try:
        yield own
    finally:
        own.stop()

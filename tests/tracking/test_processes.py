"""Runs are closed only if their process is known to have ended, and only by a starting stage."""

import hashlib
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cxr.lineage.records import ATTEMPT_TAG, FAILURE_TAG, PROCESS_TAG
from cxr.lineage.run_log import RunLog
from cxr.tracking import processes
from cxr.tracking.store import Store
from cxr.tracking.tracker import Tracker

RUN = """
import sys
from pathlib import Path
from cxr.lineage.run_log import RunLog
from cxr.lineage.records import PROCESS_TAG
from cxr.tracking.processes import this_process
from cxr.tracking.tracker import Tracker

log = RunLog("inside", None, params={}, tags={PROCESS_TAG: this_process()})
Tracker(Path(sys.argv[1]), "data").start(log)
print(log.run_id, flush=True)
sys.stdin.read()
"""
IN_A_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy2(empty_store, tmp_path)
    Tracker(tmp_path, "data")
    return tmp_path


def client_of(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def running(root: Path, processes_by_name: dict[str, str]) -> dict[str, str]:
    """Create a run with status RUNNING for each process; returns the ids."""
    client = client_of(root)
    experiment = client.get_experiment_by_name("data").experiment_id
    return {
        name: client.create_run(experiment, tags={PROCESS_TAG: process}).info.run_id
        for name, process in processes_by_name.items()
    }


def statuses(root: Path, ids: dict[str, str]) -> dict[str, str]:
    client = client_of(root)
    return {name: client.get_run(run_id).info.status for name, run_id in ids.items()}


def start_stage(root: Path) -> None:
    Tracker(root, "data").start(RunLog("new", None, params={}, tags={"a": "b"}))


def ended_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def process_with(**changed: str) -> str:
    """This process's id with another host, boot, namespace, pid or start."""
    names = ("host", "boot", "namespace", "pid", "start")
    fields = dict(zip(names, processes.this_process().split(), strict=True)) | changed
    return " ".join(fields.values())


def test_a_starting_stage_closes_exactly_the_runs_of_processes_known_to_have_ended(
    root: Path,
) -> None:
    dead_pid = str(ended_pid())
    host, boot, _, pid, start = processes.this_process().split()
    ids = running(
        root,
        {
            "dead": process_with(pid=dead_pid),
            "reused": process_with(start="1"),  # a later process has its pid
            "mine": process_with(),
            "another host": process_with(host="another-host", pid=dead_pid),
            # After a reboot, or on another machine with the same name.
            "another boot": process_with(boot="0" * 8, pid=dead_pid),
            "another namespace": process_with(namespace="pid:[1]", pid=dead_pid),
            "without namespace": f"{host} {boot} {dead_pid} {start}",
            "without namespace, reused": f"{host} {boot} {pid} 1",
            "pid is text": process_with(pid="x"),
            "pid is huge": process_with(pid="9" * 30),
            "no process": "",
        },
    )
    start_stage(root)
    found = statuses(root, ids)
    assert {name for name, status in found.items() if status == "KILLED"} == {"dead", "reused"}
    assert set(found.values()) == {"KILLED", "RUNNING"}
    run = client_of(root).get_run(ids["dead"])
    assert run.data.tags[FAILURE_TAG] == f"process {dead_pid} ended without an error message"
    assert run.info.end_time is not None


def test_a_zombie_counts_as_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.is_dead(process_with(pid=str(process.pid)))
    process.wait()


def test_a_hidden_process_is_not_considered_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with /proc mounted with hidepid, which hides other users' processes."""
    hidden = process_with(start="1")
    assert processes.is_dead(hidden)
    monkeypatch.setattr(processes, "_start", lambda pid: "")
    assert not processes.is_dead(hidden)


def test_another_users_process_is_checked_by_its_start_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pid: int, signum: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    assert not processes.is_dead(process_with())
    assert processes.is_dead(process_with(start="1"))


def test_no_process_is_considered_dead_if_proc_shows_another_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead, real = process_with(pid=str(ended_pid())), Path.readlink
    assert processes.is_dead(dead)
    monkeypatch.setattr(
        Path, "readlink", lambda path: Path("1") if path == Path("/proc/self") else real(path)
    )
    assert not processes.is_dead(dead)


def test_no_process_is_considered_dead_on_a_kernel_without_namespaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Path.readlink

    def fail(path: Path) -> Path:
        if path == Path("/proc/self/ns/pid"):
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(Path, "readlink", fail)
    host, boot, _, start = processes.this_process().split()
    assert not processes.is_dead(f"{host} {boot}  {ended_pid()} {start}")


def test_reading_a_store_changes_nothing(root: Path) -> None:
    ids = running(root, {"dead": process_with(pid=str(ended_pid()))})

    def state() -> dict[str, str]:
        files = [path for path in root.rglob("*") if path.is_file()]
        return {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in files}

    before = state()
    store = Store.open(root)
    assert store is not None
    assert [run.status for run in store.starting_with(ids["dead"])] == ["RUNNING"]
    assert store.find(ids["dead"]) is not None
    assert store.history(ids["dead"], "x") == [] and store.slides(ids["dead"]) == set()
    assert state() == before
    Tracker(root, "data")  # as in `cxr sync`
    assert statuses(root, ids) == {"dead": "RUNNING"}


def test_the_next_attempt_continues_a_run_that_was_left_running(root: Path) -> None:
    """As after a power failure, when it is unknown whether the process has ended."""
    tags = {ATTEMPT_TAG: uuid.uuid4().hex, PROCESS_TAG: process_with(boot="0" * 8)}
    client = client_of(root)
    experiment = client.get_experiment_by_name("data").experiment_id
    left = client.create_run(experiment, run_name="train-cnn", tags=tags).info.run_id
    log = RunLog("train-cnn", None, params={}, tags=tags | {PROCESS_TAG: process_with()})
    tracker = Tracker(root, "data")
    tracker.start(log)
    assert log.run_id == left
    tracker.finish(log, {}, lambda path: None)
    assert statuses(root, {"left": left}) == {"left": "FINISHED"}


@pytest.fixture
def container(root: Path) -> subprocess.Popen[str]:
    """A stage running in its own pid namespace with the same host name, as in a container.

    It ends when its standard input is closed.
    """
    probe = subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"pid namespaces need root: {probe.stderr.strip()}")
    return subprocess.Popen(
        [*IN_A_NAMESPACE, sys.executable, "-c", RUN, str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_containers_with_one_host_name_do_not_close_each_others_runs(
    root: Path, container: subprocess.Popen[str]
) -> None:
    ids = running(root, {"outside": process_with()})
    assert container.stdout is not None and container.stdin is not None
    ids["inside"] = container.stdout.readline().strip()  # it has closed dead runs
    start_stage(root)
    found = statuses(root, ids)
    container.stdin.close()
    assert container.wait() == 0
    assert found == {"outside": "RUNNING", "inside": "RUNNING"}
    start_stage(root)
    assert statuses(root, ids) == found  # its end is unknown, so the run stays open

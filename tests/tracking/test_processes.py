"""Only a process that is known to have ended loses its run, and only to a stage that writes."""

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
    """A run that says RUNNING for each, and its id."""
    client = client_of(root)
    experiment = client.get_experiment_by_name("data").experiment_id
    return {
        name: client.create_run(experiment, tags={PROCESS_TAG: process}).info.run_id
        for name, process in processes_by_name.items()
    }


def statuses(root: Path, ids: dict[str, str]) -> dict[str, str]:
    client = client_of(root)
    return {name: client.get_run(run_id).info.status for name, run_id in ids.items()}


def a_stage_starts(root: Path) -> None:
    Tracker(root, "data").start(RunLog("new", None, params={}, tags={"a": "b"}))


def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def of(**changed: str) -> str:
    """This process under another host, boot, namespace, id or start."""
    names = ("host", "boot", "namespace", "pid", "start")
    fields = dict(zip(names, processes.this_process().split(), strict=True)) | changed
    return " ".join(fields.values())


def test_a_stage_closes_the_runs_of_processes_that_are_known_to_have_ended(root: Path) -> None:
    gone = str(ended())
    host, boot, _, pid, start = processes.this_process().split()
    ids = running(
        root,
        {
            "dead": of(pid=gone),
            "reused": of(start="1"),  # the id was given to a later process
            "mine": of(),
            "another host": of(host="another-host", pid=gone),
            "another boot": of(boot="0" * 8, pid=gone),  # or another machine of the same name
            "another namespace": of(namespace="pid:[1]", pid=gone),
            "of the version before": f"{host} {boot} {gone} {start}",
            "of the version before, reused": f"{host} {boot} {pid} 1",
            "no number": of(pid="x"),
            "a huge number": of(pid="9" * 30),
            "nobody's": "",
        },
    )
    a_stage_starts(root)
    found = statuses(root, ids)
    assert {name for name, status in found.items() if status == "KILLED"} == {"dead", "reused"}
    assert set(found.values()) == {"KILLED", "RUNNING"}
    run = client_of(root).get_run(ids["dead"])
    assert run.data.tags[FAILURE_TAG] == f"process {gone} ended without an error message"
    assert run.info.end_time is not None


def test_a_zombie_has_ended_and_its_id_is_not_taken_for_a_live_one() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.is_dead(of(pid=str(process.pid)))
    process.wait()


def test_a_process_that_can_not_be_seen_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc mounted with hidepid shows no process of another user."""
    hidden = of(start="1")
    assert processes.is_dead(hidden)
    monkeypatch.setattr(processes, "_start", lambda pid: "")
    assert not processes.is_dead(hidden)


def test_another_users_process_lives_and_its_id_may_be_a_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pid: int, signum: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    assert not processes.is_dead(of())
    assert processes.is_dead(of(start="1"))


def test_nothing_is_known_where_proc_is_of_another_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone, real = of(pid=str(ended())), Path.readlink
    assert processes.is_dead(gone)
    monkeypatch.setattr(
        Path, "readlink", lambda path: Path("1") if path == Path("/proc/self") else real(path)
    )
    assert not processes.is_dead(gone)


def test_nothing_is_known_where_there_are_no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.readlink

    def fail(path: Path) -> Path:
        if path == Path("/proc/self/ns/pid"):
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(Path, "readlink", fail)
    host, boot, _, start = processes.this_process().split()
    assert not processes.is_dead(f"{host} {boot}  {ended()} {start}")


def test_a_question_writes_nothing(root: Path) -> None:
    ids = running(root, {"dead": of(pid=str(ended()))})

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
    Tracker(root, "data")  # as `cxr sync` opens one
    assert statuses(root, ids) == {"dead": "RUNNING"}


def test_a_run_left_running_goes_on_with_the_next_try(root: Path) -> None:
    """As after a power failure, of which nothing is known here."""
    tags = {ATTEMPT_TAG: uuid.uuid4().hex, PROCESS_TAG: of(boot="0" * 8)}
    client = client_of(root)
    experiment = client.get_experiment_by_name("data").experiment_id
    left = client.create_run(experiment, run_name="train-cnn", tags=tags).info.run_id
    log = RunLog("train-cnn", None, params={}, tags=tags | {PROCESS_TAG: of()})
    tracker = Tracker(root, "data")
    tracker.start(log)
    assert log.run_id == left
    tracker.finish(log, {}, lambda path: None)
    assert statuses(root, {"left": left}) == {"left": "FINISHED"}


@pytest.fixture
def container(root: Path) -> subprocess.Popen[str]:
    """A stage at work in a pid namespace of its own; the host name is ours, as of most containers.

    It ends when its standard input is closed.
    """
    tried = subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"pid namespaces need root: {tried.stderr.strip()}")
    return subprocess.Popen(
        [*IN_A_NAMESPACE, sys.executable, "-c", RUN, str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_containers_of_one_host_name_close_none_of_each_others_runs(
    root: Path, container: subprocess.Popen[str]
) -> None:
    ids = running(root, {"outside": of()})
    assert container.stdout is not None and container.stdin is not None
    ids["inside"] = container.stdout.readline().strip()  # it has started, and closed what is dead
    a_stage_starts(root)
    found = statuses(root, ids)
    container.stdin.close()
    assert container.wait() == 0
    assert found == {"outside": "RUNNING", "inside": "RUNNING"}
    a_stage_starts(root)
    assert statuses(root, ids) == found  # a run of which nothing is known is left alone

"""Which process writes a run, and whether it has ended: a run of a dead process is closed."""

import os
import socket
from pathlib import Path

from mlflow import MlflowClient

from cxr.lineage.records import FAILURE_TAG, PROCESS_TAG
from cxr.tracking.format import KILLED, RUNNING

MOST_RUNS = 1000  # of one search


def this_process() -> str:
    """Host, boot, pid namespace, process id and start: no other process anywhere has all five."""
    return " ".join((*_surroundings(), str(os.getpid()), _start("self")))


def is_dead(process: str) -> bool:
    """Whether a process is known to have ended, which takes the same boot and pid namespace.

    A process id means nothing in another container, and another boot under the same host name may
    be another machine: clones and containers share names, and machine ids, too.
    """
    try:
        *surroundings, pid, start = process.split()
        known = tuple(surroundings) == _surroundings() and not _is_of_another_namespace()
        return known and not _lives(int(pid), start)
    except (ValueError, OverflowError):  # a person may have edited the tag
        return False


def close_runs_of_dead(client: MlflowClient) -> None:
    """Mark KILLED every run that says RUNNING and whose process is known to have ended."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    for run in client.search_runs(
        experiments, f"attributes.status = '{RUNNING}'", max_results=MOST_RUNS
    ):
        process = run.data.tags.get(PROCESS_TAG, "")
        if is_dead(process):
            ended = f"process {process.split()[-2]} ended without an error message"
            client.set_tag(run.info.run_id, FAILURE_TAG, ended)
            client.set_terminated(run.info.run_id, KILLED)


def _surroundings() -> tuple[str, str, str]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # a kernel without namespaces; a field less equals no other
        namespace = ""
    return socket.gethostname(), boot, namespace


def _is_of_another_namespace() -> bool:
    """Whether /proc shows another namespace's processes, as after `unshare --pid` alone."""
    return str(Path("/proc/self").readlink()) != str(os.getpid())


def _lives(pid: int, start: str) -> bool:
    """Whether a process still runs; so, too, where that can't be seen."""
    try:
        os.kill(pid, 0)  # /proc may hide other users' processes
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _start(pid) in (start, "")


def _start(pid: int | str) -> str:
    """Clock ticks from boot to the process's start; `ended` of a zombie, nothing if hidden.

    A clock that is set back leaves it alone.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return "ended" if state in "ZX" else fields[18]

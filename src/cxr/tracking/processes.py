"""The processes that write runs: identify them, and close the runs of dead ones."""

import os
import socket
from pathlib import Path

from mlflow import MlflowClient

from cxr.lineage.records import FAILURE_TAG, PROCESS_TAG
from cxr.tracking.format import KILLED, RUNNING

MOST_RUNS = 1000  # per search


def this_process() -> str:
    """A unique id of this process: host, boot id, pid namespace, process id and start time."""
    return " ".join((*_machine(), str(os.getpid()), _start("self")))


def is_dead(process: str) -> bool:
    """Whether a process is known to have ended; False if it cannot be known.

    It can be known only within the same boot and pid namespace: process ids differ between
    containers, and another boot may be another machine, since clones share host names.
    """
    try:
        *machine, pid, start = process.split()
        visible = tuple(machine) == _machine() and not _proc_shows_other_namespace()
        return visible and not _is_alive(int(pid), start)
    except (ValueError, OverflowError):  # the tag may have been edited
        return False


def close_runs_of_dead(client: MlflowClient) -> None:
    """Set runs with status RUNNING to KILLED if their process is known to have ended."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    for run in client.search_runs(
        experiments, f"attributes.status = '{RUNNING}'", max_results=MOST_RUNS
    ):
        process = run.data.tags.get(PROCESS_TAG, "")
        if is_dead(process):
            ended = f"process {process.split()[-2]} ended without an error message"
            client.set_tag(run.info.run_id, FAILURE_TAG, ended)
            client.set_terminated(run.info.run_id, KILLED)


def _machine() -> tuple[str, str, str]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no namespaces; the shorter id matches no other
        namespace = ""
    return socket.gethostname(), boot, namespace


def _proc_shows_other_namespace() -> bool:
    """Whether /proc shows another namespace's processes, as after `unshare --pid` alone."""
    return str(Path("/proc/self").readlink()) != str(os.getpid())


def _is_alive(pid: int, start: str) -> bool:
    """Whether a process is running; True if it cannot be seen."""
    try:
        os.kill(pid, 0)  # /proc may hide other users' processes
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _start(pid) in (start, "")


def _start(pid: int | str) -> str:
    """Clock ticks from boot to the process's start; `ended` for a zombie, empty if hidden.

    Setting the system clock does not change it.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return "ended" if state in "ZX" else fields[18]

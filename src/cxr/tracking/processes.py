"""Which process writes a run, and whether it still lives: none stays RUNNING when it is dead."""

import os
import socket
from pathlib import Path

from mlflow import MlflowClient

from cxr.records import FAILURE_TAG, PROCESS_TAG
from cxr.tracking.shown import KILLED, RUNNING

MOST_RUNS = 1000  # of one search


def this_process() -> str:
    """Host, boot, process id and start: what no other process, here or elsewhere, is called."""
    pid = os.getpid()
    return f"{socket.gethostname()} {_boot()} {pid} {_start(pid)}"


def is_dead(process: str) -> bool:
    """Whether a process is known to have ended; of another host's nothing is known."""
    try:
        host, boot, pid, start = process.split()
        if host != socket.gethostname():
            return False
        return boot != _boot() or start != _start(int(pid))
    except ValueError:
        return False


def close_runs_of_dead(client: MlflowClient) -> None:
    """Mark KILLED every run that says RUNNING and whose process has ended."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    for run in client.search_runs(
        experiments, f"attributes.status = '{RUNNING}'", max_results=MOST_RUNS
    ):
        process = run.data.tags.get(PROCESS_TAG, "")
        if is_dead(process):
            ended = f"process {process.split()[2]} ended without a word"
            client.set_tag(run.info.run_id, FAILURE_TAG, ended)
            client.set_terminated(run.info.run_id, KILLED)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start(pid: int) -> str:
    """Clock ticks from boot to the process's start; a clock that is set back leaves it alone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "ended"
    state, *fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return "ended" if state in "ZX" else fields[18]

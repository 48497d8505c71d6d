"""Many processes that log to an MLflow store at once, before its database exists."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

PROCESSES, EPOCHS = 8, 3
WRITER = """
import sys, uuid
from pathlib import Path
from cxr.lineage.run_log import RunLog
from cxr.lineage.records import ATTEMPT_TAG, PROCESS_TAG
from cxr.tracking.processes import this_process
from cxr.tracking.tracker import Tracker

root, name, epochs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
tags = {ATTEMPT_TAG: uuid.uuid4().hex, PROCESS_TAG: this_process()}
log = RunLog(name, None, params={"seed": 0}, tags=tags)
tracker = Tracker(root, "crowd")
tracker.start(log)
for epoch in range(1, epochs + 1):
    tracker.log_epoch(log, {"epoch": epoch, "loss/train": 1 / epoch, "loss/val": 1 / epoch})
    log.history.append({"epoch": epoch, "loss/train": 1 / epoch, "loss/val": 1 / epoch})
tracker.finish(log, {}, lambda path: None)
"""
READER = """
import sys, time
from pathlib import Path
from cxr.tracking.store import Store

until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    store = Store.open(Path(sys.argv[1]))
    if store is not None:
        store.starting_with("")
"""


@dataclass(frozen=True)
class Outcome:
    """What the processes printed, and what the store contains."""

    errors: list[str]  # standard error of processes that failed or warned
    finished: int  # runs
    unfinished: int  # runs
    points: int  # logged values of metrics
    duplicates: int  # further points of a metric at the same step

    @property
    def as_expected(self) -> bool:
        """No error, no lost run or point, no duplicate."""
        return self == Outcome([], PROCESSES, 0, PROCESSES * EPOCHS * 2, 0)


def run_round(root: Path) -> Outcome:
    """Let eight processes log one run each while another process reads the store."""
    writers = [start(WRITER, root, f"run-{n}", str(EPOCHS)) for n in range(PROCESSES)]
    errors = wait_for_errors([*writers, start(READER, root, "15")])
    with closing(sqlite3.connect(root / "mlflow.db")) as database:

        def count(query: str) -> int:
            return int(database.execute(query).fetchone()[0])

        return Outcome(
            errors,
            count("SELECT count(*) FROM runs WHERE status = 'FINISHED'"),
            count("SELECT count(*) FROM runs WHERE status != 'FINISHED'"),
            count("SELECT count(*) FROM metrics"),
            count(
                "SELECT count(*) - count(DISTINCT run_uuid || ' ' || key || ' ' || step)"
                " FROM metrics"
            ),
        )


def start(program: str, root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python process that uses the store in `root`."""
    env = os.environ | {"PYTHONWARNINGS": "ignore"}
    env.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(root), *arguments], env=env, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_errors(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for all processes; return standard error of those that failed or warned."""
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [
        text for process, text in zip(processes, errors, strict=True) if process.returncode or text
    ]

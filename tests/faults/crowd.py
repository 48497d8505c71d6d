"""Many processes at once on a store whose database is not there yet."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

PROCESSES, EPOCHS = 8, 3
PROGRAM = """
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
class Round:
    """What became of the processes and their runs."""

    errors: list[str]  # standard error of those that failed
    finished: int  # runs
    running: int
    points: int  # of curves
    doubled: int  # points of one metric at one step beyond the first

    @property
    def holds(self) -> bool:
        """Nothing went wrong, nothing is lost, nothing doubled."""
        return self == Round([], PROCESSES, 0, PROCESSES * EPOCHS * 2, 0)


def crowd(root: Path) -> Round:
    """Eight processes that write a run each, and one that reads all the time."""
    writers = [start(PROGRAM, root, f"run-{n}", str(EPOCHS)) for n in range(PROCESSES)]
    errors = ended([*writers, start(READER, root, "15")])
    with closing(sqlite3.connect(root / "mlflow.db")) as base:

        def count(query: str) -> int:
            return int(base.execute(query).fetchone()[0])

        return Round(
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
    """A process of its own that works on the store in `root`."""
    env = os.environ | {"PYTHONWARNINGS": "ignore"}
    env.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(root), *arguments], env=env, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for all; what those printed that failed or warned."""
    printed = [process.communicate(timeout=300)[1] for process in processes]
    return [
        text for process, text in zip(processes, printed, strict=True) if process.returncode or text
    ]

"""Sweeps: train configurations over seeds as queued DVC experiments and rank them in one table.

A finished experiment is recognised by its name and not run again; an interrupted one resumes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr import locks, signals
from cxr.errors import CxrError
from cxr.locks import Timeout
from cxr.pipeline import scratch
from cxr.progress import Advance
from cxr.sweep import results
from cxr.sweep.plan import Plan, make
from cxr.sweep.queue import Queue
from cxr.sweep.ranking import Table, table
from cxr.sweep.results import FOLDER, done
from cxr.sweep.runner import Say, SweepRunner
from cxr.sweep.space import grid, parse, random

__all__ = ["FOLDER", "Answer", "Plan", "done", "grid", "make", "parse", "random", "run"]


@dataclass(frozen=True)
class Answer:
    """The result of a sweep."""

    plan: Plan
    table: Table
    failed: dict[str, str]  # experiment -> reason

    def as_json(self) -> dict[str, Any]:
        """The result as JSON; the same sweep gives the same document."""
        return {
            **self.plan.as_json(),
            "chosen_by": "mean over seeds of macro AUROC on validation",
            "rows": [asdict(row) for row in self.table.rows],
            "best": [asdict(best) | {"doubt": best.doubt} for best in self.table.best],
            "failed": self.failed,
        }


def run(plan: Plan, root: Path, say: Say, advance: Advance) -> Answer:
    """Run the unfinished experiments, rank all of them and write the result to reports/sweeps/.

    Raises
    ------
    CxrError
        If DVC's queue holds tasks from outside the sweep, or another sweep is running.
    KeyboardInterrupt
        After the running experiments have stopped; their progress is kept.
    """
    with signals.handled(), _exclusive(root):
        runner = SweepRunner(plan, Queue(root), say, advance, done(plan, root))
        runner.run()
        outcomes = results.outcomes(plan, root)
        answer = Answer(plan, table(plan, outcomes), runner.failed)
        results.write(plan, answer.as_json(), outcomes, root)
        return answer


@contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    if not locks.has_locks(root):
        raise CxrError(
            f"the file system of {root} has no file locks, which DVC's queue needs; run the sweep "
            "in a clone on another disk"
        )
    lock = locks.file_lock(scratch.folder_of(root) / "sweep.lock")
    try:
        locks.acquire(lock)
    except Timeout:
        raise CxrError(
            f"{locks.holder(lock)} is already running a sweep in {root}; {locks.how_to_end(lock)}"
        ) from None
    try:
        yield
    finally:
        lock.release()

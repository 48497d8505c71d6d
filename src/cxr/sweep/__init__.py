"""Configurations by seeds, as queued DVC experiments, ranked in one table.

What is done is never run again, and what was stopped goes on: an experiment is known by its name,
its stages by their fingerprints.
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
from cxr.sweep.runner import Course, Say
from cxr.sweep.space import grid, parse, random

__all__ = ["FOLDER", "Answer", "Plan", "done", "grid", "make", "parse", "random", "run"]


@dataclass(frozen=True)
class Answer:
    """What a sweep ends in."""

    plan: Plan
    table: Table
    failed: dict[str, str]  # experiment -> reason

    def as_json(self) -> dict[str, Any]:
        """For programs; the same call gives the same document."""
        return {
            **self.plan.as_json(),
            "chosen_by": "mean over seeds of macro AUROC on validation",
            "rows": [asdict(row) for row in self.table.rows],
            "best": [asdict(best) | {"doubt": best.doubt} for best in self.table.best],
            "failed": self.failed,
        }


def run(plan: Plan, root: Path, say: Say, advance: Advance) -> Answer:
    """Run what is not done yet, rank all, and keep that in reports/sweeps/.

    Raises
    ------
    CxrError
        Where DVC's queue holds tasks of others, or another sweep is at work.
    KeyboardInterrupt
        Once what ran has stopped, with its work kept.
    """
    with signals.handled(), _alone(root):
        course = Course(plan, Queue(root), say, advance, done(plan, root))
        course.run()
        outcomes = results.outcomes(plan, root)
        answer = Answer(plan, table(plan, outcomes), course.failed)
        results.write(plan, answer.as_json(), outcomes, root)
        return answer


@contextmanager
def _alone(root: Path) -> Iterator[None]:
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

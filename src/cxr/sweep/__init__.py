"""Sweeps: train configurations over seeds, here or on a cluster, and rank them in one table.

Each is a DVC experiment. A finished one is recognised by its name and not run again; an interrupted
one resumes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr import locks, signals
from cxr.errors import CxrError
from cxr.locks import Timeout
from cxr.pipeline import scratch
from cxr.sweep import local, results
from cxr.sweep.experiment import Task
from cxr.sweep.plan import LOCAL, Experiment, Place, Plan, make
from cxr.sweep.ranking import Table, table
from cxr.sweep.results import FOLDER, done
from cxr.sweep.runner import Say, Show, Slot, State, SweepRunner
from cxr.sweep.snapshot import take
from cxr.sweep.space import grid, parse, random

__all__ = [
    "FOLDER",
    "LOCAL",
    "Answer",
    "Place",
    "Plan",
    "State",
    "done",
    "grid",
    "make",
    "parse",
    "random",
    "run",
]


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


def run(plan: Plan, root: Path, say: Say, show: Show) -> Answer:
    """Run the unfinished experiments, rank all of them and write the result to reports/sweeps/.

    Parameters
    ----------
    show : called with the state of the sweep at least twice a second while experiments run.

    Raises
    ------
    CxrError
        If another sweep is running, or the place has too few CPUs or GPUs.
    KeyboardInterrupt
        After the running experiments have stopped; their progress is kept.
    """
    with _exclusive(root):
        finished = done(plan, root)
        state = State(plan, results.outcomes(plan, finished, root))
        missing = [each for each in plan.experiments if each.name not in finished]
        if missing:
            tasks = _tasks(plan, missing, root)
            with _slots(plan, root, say) as slots, signals.handled():
                SweepRunner(state, tasks, slots, root, say, show).run()
        answer = Answer(plan, table(plan, state.outcomes), state.failed)
        results.write(plan, answer.as_json(), state.outcomes, root)
        return answer


def _tasks(plan: Plan, missing: list[Experiment], root: Path) -> dict[str, Task]:
    snapshot, config = take(root), root / ".dvc/config.local"
    local = config.read_bytes() if config.exists() else b""
    return {
        each.name: Task(snapshot, each.name, each.params, plan.target, local) for each in missing
    }


@contextmanager
def _slots(plan: Plan, root: Path, say: Say) -> Iterator[Sequence[Slot]]:
    if plan.place.on == LOCAL:
        try:
            yield local.slots(root, plan.place, plan.threads)
        finally:
            local.remove_clones(root)
    else:
        from cxr.sweep import cluster  # needs Ray

        with cluster.slots(root, plan.place, plan.threads, say) as slots:
            yield slots


@contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    if not locks.has_locks(root):
        raise CxrError(
            f"the file system of {root} has no file locks, which a sweep needs; run the sweep "
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

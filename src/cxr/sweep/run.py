"""Runs a sweep: the unfinished experiments, the ranking, and the saved result."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr import locks, signals
from cxr.errors import CxrError
from cxr.lineage.snapshot import take
from cxr.pipeline import scratch
from cxr.progress import Say
from cxr.sweep import local, results
from cxr.sweep.plan import LOCAL, Plan
from cxr.sweep.ranking import Table, table
from cxr.sweep.results import done
from cxr.sweep.runner import Show, Slot, State, SweepRunner


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
    if not locks.has_locks(root):
        raise CxrError(
            f"the file system of {root} has no file locks, which a sweep needs; run the sweep "
            "in a clone on another disk"
        )
    with locks.exclusive(scratch.folder_of(root) / "sweep.lock", f"running a sweep in {root}"):
        state = State(plan, results.outcomes(plan, done(plan, root), root))
        if state.waiting:
            with _slots(plan, root, say) as slots, signals.handled():
                SweepRunner(state, take(root), slots, root, say, show).run()
        answer = Answer(plan, table(plan, state.outcomes), state.failed)
        results.write(plan, answer.as_json(), state.outcomes, root)
        return answer


@contextmanager
def _slots(plan: Plan, root: Path, say: Say) -> Iterator[Sequence[Slot]]:
    if plan.place.on == LOCAL:
        try:
            yield local.slots(root, plan.place, plan.threads)
        finally:
            shutil.rmtree(root / local.FOLDER, ignore_errors=True)  # progress is elsewhere
    else:
        from cxr.sweep import cluster  # needs Ray

        with cluster.slots(root, plan.place, plan.threads, say) as slots:
            yield slots

"""Runs a sweep's experiments in slots, of this machine or a cluster, until each has ended."""

import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Protocol

from cxr.errors import CxrError, one_line
from cxr.formatting import duration
from cxr.lineage.snapshot import Packed, Snapshot, receive
from cxr.progress import Say
from cxr.signals import suspended_together
from cxr.sweep.experiment import Lost
from cxr.sweep.plan import Experiment, Plan
from cxr.sweep.ranking import Outcome
from cxr.sweep.results import log_of, outcomes, unlogged

POLL_SECONDS = 0.5
MOST_LOSSES = 3  # of a slot, until an experiment counts as the cause


class Slot(Protocol):
    """Runs one experiment at a time, in a thread."""

    place: str  # for messages

    def run(self, snapshot: Snapshot, experiment: Experiment, log: Path) -> Packed:
        """Run an experiment; CxrError if it fails, Stopped after `stop`, Lost if it must rerun."""

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the running experiment."""

    def stop(self) -> None:
        """Interrupt the running experiment."""


@dataclass(frozen=True)
class Running:
    """An experiment at work."""

    experiment: Experiment
    slot: Slot
    since: float  # monotonic time


@dataclass
class State:
    """How far a sweep is."""

    plan: Plan
    outcomes: dict[str, dict[str, Outcome]]  # of the finished experiments
    failed: dict[str, str] = field(default_factory=dict)  # experiment -> reason
    running: dict[Future[Packed], Running] = field(default_factory=dict)
    seconds_left: float | None = None

    @property
    def waiting(self) -> list[Experiment]:
        """The experiments that have not started, or must run again."""
        running = {each.experiment.name for each in self.running.values()}
        known = self.outcomes.keys() | self.failed.keys() | running
        return [each for each in self.plan.experiments if each.name not in known]


Show = Callable[[State], None]


class SweepRunner:
    """Runs the unfinished experiments of one sweep."""

    def __init__(
        self, state: State, snapshot: Snapshot, slots: Sequence[Slot], root: Path,
        say: Say, show: Show,
    ) -> None:  # fmt: skip
        self._state, self._snapshot, self._root = state, snapshot, root
        self._say, self._show = say, show
        self._idle, self._n_slots = deque(slots), len(slots)
        self._losses, self._durations = Counter[str](), list[float]()
        self._noted = set[str]()

    def run(self) -> None:
        """Run the experiments until each has ended.

        Raises
        ------
        CxrError
            If every slot is lost.
        KeyboardInterrupt
            After the running experiments have stopped; their progress is kept.
        """
        state = self._state
        with ThreadPoolExecutor(self._n_slots) as pool, suspended_together(self._send):
            try:
                while state.waiting or state.running:
                    self._start(pool)
                    self._show(state)
                    for future in wait(state.running, POLL_SECONDS, FIRST_COMPLETED).done:
                        self._handle(future, state.running.pop(future))
            except (CxrError, KeyboardInterrupt):
                self._stop()
                raise

    def _start(self, pool: ThreadPoolExecutor) -> None:
        state = self._state
        for experiment in state.waiting[: len(self._idle)]:
            slot = self._idle.popleft()
            log = self._root / log_of(state.plan.name, experiment.name)
            future = pool.submit(slot.run, self._snapshot, experiment, log)
            state.running[future] = Running(experiment, slot, time.monotonic())
        if not state.running:
            raise CxrError(
                "every node of the cluster is lost; start it again, and run the same command to "
                "resume"
            )

    def _handle(self, future: Future[Packed], running: Running) -> None:
        name, slot, is_usable = running.experiment.name, running.slot, True
        try:
            packed = future.result()
        except Lost as lost:
            is_usable = not lost.for_good  # it starts a new process
            self._losses[name] += is_usable
            if self._losses[name] < MOST_LOSSES:
                self._say(f"sweep: {slot.place} is lost ({lost}); {name} runs again")
            else:
                self._fail(running, f"its process died {MOST_LOSSES} times: {lost}")
        except (CxrError, OSError) as error:  # of a stage, git or the disk
            self._fail(running, one_line(error))
        else:
            self._finish(running, packed)
        if is_usable:
            self._idle.append(slot)

    def _fail(self, running: Running, reason: str) -> None:
        self._state.failed[running.experiment.name] = reason
        self._say(f"sweep: {running.experiment.label} failed: {reason}")

    def _finish(self, running: Running, packed: Packed) -> None:
        state, experiment = self._state, running.experiment
        receive(packed, self._root)
        for note in unlogged(self._root / log_of(state.plan.name, experiment.name)) - self._noted:
            self._noted.add(note)
            self._say(f"sweep: {experiment.name}: {note}")
        state.outcomes |= outcomes(state.plan, [experiment.name], self._root)
        self._durations.append(time.monotonic() - running.since)
        n_left = len(state.waiting) + len(state.running)
        state.seconds_left = mean(self._durations) * n_left / self._n_slots
        left = f", about {duration(state.seconds_left)} left" if n_left else ""
        n_done, n = len(state.outcomes), len(state.plan.experiments)
        self._say(f"sweep: {n_done} of {n} done: {experiment.label}{left}")

    def _send(self, signum: signal.Signals) -> None:
        for each in self._state.running.values():
            each.slot.send(signum)

    def _stop(self) -> None:
        """Interrupt the running experiments so that they can resume."""
        self._say("sweep: stopping the running experiments; their progress is kept")
        for each in self._state.running.values():
            each.slot.stop()
        wait(self._state.running)
        self._say("sweep: stopped; run the same command again to resume")

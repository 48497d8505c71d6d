"""Runs a sweep's experiments in slots, of this machine or a cluster, until each has ended."""

import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Protocol

from cxr.errors import CxrError, one_line
from cxr.formatting import duration
from cxr.signals import suspended_together
from cxr.sweep.experiment import Ended, Task, receive
from cxr.sweep.plan import Experiment, Plan
from cxr.sweep.ranking import Outcome
from cxr.sweep.results import log_of, outcomes
from cxr.sweep.space import shown

POLL_SECONDS = 0.5
MOST_LOSSES = 3  # of a slot, until an experiment counts as the cause

Say = Callable[[str], None]


class Lost(Exception):
    """A slot's process is gone, with its machine if `for_good`; the experiment must run again."""

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


class Slot(Protocol):
    """Runs one experiment at a time, in a thread."""

    place: str  # for messages

    def run(self, task: Task, log: Path) -> Ended:
        """Run an experiment; Stopped after `stop`, Lost if it must run again."""

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
    running: list[Running] = field(default_factory=list)
    seconds_left: float | None = None

    @property
    def n_ended(self) -> int:
        return len(self.outcomes) + len(self.failed)


Show = Callable[[State], None]


class SweepRunner:
    """Runs the experiments of one plan.

    Parameters
    ----------
    tasks : of the experiments to run.
    """

    def __init__(
        self, state: State, tasks: Mapping[str, Task], slots: Sequence[Slot], root: Path,
        say: Say, show: Show,
    ) -> None:  # fmt: skip
        self._state, self._tasks, self._root = state, tasks, root
        self._say, self._show = say, show
        self._waiting = deque(each for each in state.plan.experiments if each.name in tasks)
        self._idle = deque(slots)
        self._running: dict[Future[Ended], Running] = {}
        self._losses = Counter[str]()
        self._n_slots, self._durations = len(slots), list[float]()

    def run(self) -> None:
        """Run the experiments until each has ended.

        Raises
        ------
        CxrError
            If every slot is lost.
        KeyboardInterrupt
            After the running experiments have stopped; their progress is kept.
        """
        with ThreadPoolExecutor(len(self._idle)) as pool, suspended_together(self._send):
            try:
                while self._waiting or self._running:
                    self._start(pool)
                    self._state.running = list(self._running.values())
                    self._show(self._state)
                    for future in wait(self._running, POLL_SECONDS, FIRST_COMPLETED).done:
                        self._handle(future, self._running.pop(future))
            except (CxrError, KeyboardInterrupt):
                self._stop()
                raise

    def _start(self, pool: ThreadPoolExecutor) -> None:
        while self._waiting and self._idle:
            each, slot = self._waiting.popleft(), self._idle.popleft()
            log = self._root / log_of(self._state.plan.name, each.name)
            future = pool.submit(slot.run, self._tasks[each.name], log)
            self._running[future] = Running(each, slot, time.monotonic())
        if not self._running:
            raise CxrError(
                "every node of the cluster is lost; start it again, and run the same command to "
                "resume"
            )

    def _handle(self, future: Future[Ended], running: Running) -> None:
        each, slot = running.experiment, running.slot
        try:
            ended = future.result()
            self._durations.append(time.monotonic() - running.since)
        except Lost as lost:
            self._losses[each.name] += not lost.for_good
            if not lost.for_good:
                self._idle.append(slot)  # which starts a new process
            if self._losses[each.name] < MOST_LOSSES:
                self._waiting.appendleft(each)
                self._say(f"sweep: {slot.place} is lost ({lost}); {each.name} runs again")
                return
            ended = Ended(f"its process died {MOST_LOSSES} times: {lost}")
        except (CxrError, OSError) as error:  # git or the disk
            ended = Ended(one_line(error))
            self._idle.append(slot)
        else:
            self._idle.append(slot)
        self._end(each, ended)

    def _end(self, experiment: Experiment, ended: Ended) -> None:
        name, state = experiment.name, self._state
        label = f"{name} ({shown(experiment.configuration)}, seed {experiment.seed})"
        if ended.failed is not None:
            state.failed[name] = ended.failed
        else:
            receive(ended, self._root)
            state.outcomes |= outcomes(state.plan, [name], self._root)
        n_left = len(self._waiting) + len(self._running)
        if self._durations:
            state.seconds_left = mean(self._durations) * n_left / self._n_slots
        if ended.failed is not None:
            self._say(f"sweep: {label} failed: {ended.failed}")
            return
        left = f", about {duration(state.seconds_left)} left" if state.seconds_left else ""
        self._say(
            f"sweep: {len(state.outcomes)} of {len(state.plan.experiments)} done: {label}{left}"
        )

    def _send(self, signum: signal.Signals) -> None:
        for each in self._running.values():
            each.slot.send(signum)

    def _stop(self) -> None:
        """Interrupt the running experiments so that they can resume."""
        self._say("sweep: stopping the running experiments; their progress is kept")
        for each in self._running.values():
            each.slot.stop()
        wait(self._running)
        self._say("sweep: stopped; run the same command again to resume")

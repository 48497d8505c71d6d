"""The course of a sweep: what is queued, what runs, what came of it."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from cxr.errors import CxrError
from cxr.progress import Advance
from cxr.signals import suspended_together
from cxr.sweep.plan import Experiment, Plan
from cxr.sweep.queue import Queue, State, Task
from cxr.sweep.results import done
from cxr.sweep.space import shown

POLL_SECONDS = 1.0
REST = 10  # times as long as a look at the queue takes, so that looking costs the work little
WAKE_SECONDS = 15.0  # a worker may go home in the moment in which a task comes
LOST_SECONDS = 60.0  # for which nothing works on a task that DVC calls running
UNDER_WAY = (State.QUEUED, State.RUNNING)
MOST_NAMED = 3

Say = Callable[[str], None]


@dataclass
class Course:
    """One sweep under way."""

    plan: Plan
    queue: Queue
    say: Say
    advance: Advance
    done: set[str]
    failed: dict[str, str] = field(default_factory=dict)  # experiment -> reason
    _tasks: dict[str, Task] = field(default_factory=dict)
    _again: set[str] = field(default_factory=set)  # lost once, and queued again
    _idle_since: dict[str, float] = field(default_factory=dict)  # RUNNING, and nothing works on it

    def run(self) -> None:
        """Run what is not done yet.

        Raises
        ------
        CxrError
            Where the queue holds tasks of others.
        KeyboardInterrupt
            Once what ran has stopped, with its work kept.
        """
        self._show()
        if not self._open():
            return
        self._tasks = self.queue.tasks()
        self._refuse_others()
        try:
            self._fill()
            with suspended_together(self._send):
                self._wait()
        except (CxrError, KeyboardInterrupt):
            self._stop()
            raise

    def _open(self) -> list[Experiment]:
        ended = self.done | self.failed.keys()
        return [each for each in self.plan.experiments if each.name not in ended]

    def _state(self, experiment: Experiment) -> State | None:
        task = self._tasks.get(experiment.name)
        return task.state if task else None

    def _refuse_others(self) -> None:
        ours = {each.name for each in self.plan.experiments}
        others = [
            task.name
            for task in self._tasks.values()
            if task.state in UNDER_WAY and task.name not in ours
        ]
        if others:
            named = ", ".join(others[:MOST_NAMED]) + (", …" if len(others) > MOST_NAMED else "")
            raise CxrError(
                f"DVC's queue holds {len(others)} that are not of this sweep ({named}), and its "
                "workers run all that is there; run them with `dvc queue start`, or take them out "
                "with `dvc queue remove --queued`, then run again"
            )

    def _fill(self) -> None:
        """Queue what is neither queued nor running; what failed before is tried again."""
        new = [each for each in self._open() if self._state(each) not in UNDER_WAY]
        self.queue.remove([each.name for each in new if self._state(each)])
        for each in new:
            self.queue.add(each)

    def _wait(self) -> None:
        started, n_before = time.monotonic(), len(self.done)
        woken, took = started - WAKE_SECONDS, 0.0
        self._tasks = self.queue.tasks()
        while self._open():
            states = [self._state(each) for each in self._open()]
            lacks_workers = states.count(State.RUNNING) < self.plan.jobs
            now = time.monotonic()
            if State.QUEUED in states and lacks_workers and now - woken >= WAKE_SECONDS:
                self.queue.start(self.plan.jobs)
                woken = now
            time.sleep(max(POLL_SECONDS, REST * took))
            looked = time.monotonic()
            self._tasks = self.queue.tasks()
            took = time.monotonic() - looked
            for each in self._ended():
                n_ended = len(self.done) + len(self.failed) - n_before
                self._tell(each, (looked - started) / n_ended * len(self._open()))

    def _ended(self) -> Iterator[Experiment]:
        """Each experiment that has ended since the look before, as done or failed."""
        there = done(self.plan, self.queue.root)
        for each in self._open():
            task = self._tasks.get(each.name)
            if each.name in there and (task is None or task.state is not State.RUNNING):
                self.done.add(each.name)
            elif task and task.state is State.FAILED:
                self.failed[each.name] = self.queue.why_failed(each.name)
            elif task and (task.state is State.QUEUED or self.queue.is_alive(task)):
                self._idle_since.pop(each.name, None)
            else:
                self._see_idle(each, task, each.name in there)
            if each.name in self.done or each.name in self.failed:
                yield each

    def _see_idle(self, experiment: Experiment, task: Task | None, is_there: bool) -> None:
        """A worker comes and goes within seconds; what stays without one is run again, once."""
        now, name = time.monotonic(), experiment.name
        if now - self._idle_since.setdefault(name, now) < LOST_SECONDS:
            return
        if task and not self.queue.drop(task):
            return
        del self._idle_since[name]
        if is_there:
            self.done.add(name)
        elif name in self._again:
            self.failed[name] = "its worker ended without a word, twice"
        else:
            self._again.add(name)
            self.queue.add(experiment)

    def _send(self, signum: signal.Signals) -> None:
        """To each task on which a process works, also where it began after the last look."""
        for each in self._open():
            if each.name in self._tasks:
                self.queue.send(self._tasks[each.name], signum)

    def _stop(self) -> None:
        """Take out what waits, and let what runs stop where it can go on."""
        self.say("sweep: stopping what runs; what it has done is kept")
        interrupted: set[str] = set()
        until = time.monotonic() + LOST_SECONDS
        while time.monotonic() < until:
            self._tasks = self.queue.tasks()
            under_way = [each for each in self._open() if self._state(each) in UNDER_WAY]
            if not under_way:
                break
            tasks = [self._tasks[each.name] for each in under_way]
            alive = [each.name for each in tasks if self.queue.is_alive(each)]
            if alive:
                until = time.monotonic() + LOST_SECONDS
            with suppress(CxrError):  # one of them has ended meanwhile; the next look tells
                new = [name for name in alive if name not in interrupted]
                self.queue.interrupt(new)
                interrupted.update(new)
            with suppress(CxrError):  # or has begun
                self.queue.remove([each.name for each in tasks if each.state is State.QUEUED])
            time.sleep(POLL_SECONDS)
        self.say("sweep: stopped; the same command goes on")

    def _show(self) -> None:
        self.advance(len(self.done) + len(self.failed), len(self.plan.experiments))

    def _tell(self, experiment: Experiment, seconds_left: float) -> None:
        self._show()
        about = f"{experiment.name} ({shown(experiment.configuration)}, seed {experiment.seed})"
        if experiment.name in self.failed:
            self.say(f"sweep: {about} failed: {self.failed[experiment.name]}")
            return
        left = f", about {_duration(seconds_left)} left" if self._open() else ""
        self.say(f"sweep: {len(self.done)} of {len(self.plan.experiments)} done: {about}{left}")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

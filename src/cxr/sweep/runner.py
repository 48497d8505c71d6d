"""Run a sweep: queue its experiments, keep workers running and report what ends."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from cxr.errors import CxrError
from cxr.formatting import count
from cxr.progress import Advance
from cxr.signals import suspended_together
from cxr.sweep.plan import Experiment, Plan
from cxr.sweep.queue import Queue, State, Task
from cxr.sweep.results import done
from cxr.sweep.space import shown

POLL_SECONDS = 1.0
POLL_COST_FACTOR = 10  # sleep at least this many times the duration of a poll
RESTART_SECONDS = 15.0  # between starts of workers; one may exit just as a task is queued
LOST_SECONDS = 60.0  # after which a running task without a live process counts as lost
ACTIVE = (State.QUEUED, State.RUNNING)
MAX_NAMES = 3

Say = Callable[[str], None]


@dataclass
class SweepRunner:
    """Runs the experiments of one plan and keeps track of their states."""

    plan: Plan
    queue: Queue
    say: Say
    advance: Advance
    done: set[str]
    failed: dict[str, str] = field(default_factory=dict)  # experiment -> reason
    _tasks: dict[str, Task] = field(default_factory=dict)
    _requeued: set[str] = field(default_factory=set)  # lost once and queued again
    _idle_since: dict[str, float] = field(default_factory=dict)  # without a live process

    def run(self) -> None:
        """Run the unfinished experiments.

        Raises
        ------
        CxrError
            If the queue holds tasks from outside the sweep.
        KeyboardInterrupt
            After the running experiments have stopped; their progress is kept.
        """
        self._advance_bar()
        if not self._unfinished():
            return
        self._tasks = self.queue.tasks()
        self._refuse_external_tasks()
        try:
            self._queue_missing()
            with suspended_together(self._send):
                self._wait()
        except (CxrError, KeyboardInterrupt):
            self._stop()
            raise

    def _unfinished(self) -> list[Experiment]:
        ended = self.done | self.failed.keys()
        return [each for each in self.plan.experiments if each.name not in ended]

    def _state(self, experiment: Experiment) -> State | None:
        task = self._tasks.get(experiment.name)
        return task.state if task else None

    def _refuse_external_tasks(self) -> None:
        ours = {each.name for each in self.plan.experiments}
        external = [
            task.name
            for task in self._tasks.values()
            if task.state in ACTIVE and task.name not in ours
        ]
        if external:
            names = ", ".join(external[:MAX_NAMES]) + (", …" if len(external) > MAX_NAMES else "")
            raise CxrError(
                f"DVC's queue holds {count(len(external), 'task')} from outside this sweep "
                f"({names}), and its workers run every task; finish the queue with "
                "`dvc queue start` or empty it with `dvc queue remove --queued`, then run the "
                "sweep again"
            )

    def _queue_missing(self) -> None:
        """Queue what is neither queued nor running, including experiments that failed before."""
        new = [each for each in self._unfinished() if self._state(each) not in ACTIVE]
        self.queue.remove([each.name for each in new if self._state(each)])
        for each in new:
            self.queue.add(each, self.plan.target)

    def _wait(self) -> None:
        started, n_before = time.monotonic(), len(self.done)
        last_start, poll_seconds = started - RESTART_SECONDS, 0.0
        self._tasks = self.queue.tasks()
        while self._unfinished():
            states = [self._state(each) for each in self._unfinished()]
            lacks_workers = states.count(State.RUNNING) < self.plan.jobs
            now = time.monotonic()
            if State.QUEUED in states and lacks_workers and now - last_start >= RESTART_SECONDS:
                self.queue.start(self.plan.jobs)
                last_start = now
            time.sleep(max(POLL_SECONDS, POLL_COST_FACTOR * poll_seconds))
            polled = time.monotonic()
            self._tasks = self.queue.tasks()
            poll_seconds = time.monotonic() - polled
            for each in self._ended():
                n_ended = len(self.done) + len(self.failed) - n_before
                self._report(each, (polled - started) / n_ended * len(self._unfinished()))

    def _ended(self) -> Iterator[Experiment]:
        """Each experiment that is done or has failed since the previous poll."""
        finished = done(self.plan, self.queue.root)
        for each in self._unfinished():
            task = self._tasks.get(each.name)
            if each.name in finished and (task is None or task.state is not State.RUNNING):
                self.done.add(each.name)
            elif task and task.state is State.FAILED:
                self.failed[each.name] = self.queue.why_failed(each.name)
            elif task and (task.state is State.QUEUED or self.queue.is_alive(task)):
                self._idle_since.pop(each.name, None)
            else:
                self._handle_idle(each, task, each.name in finished)
            if each.name in self.done or each.name in self.failed:
                yield each

    def _handle_idle(self, experiment: Experiment, task: Task | None, is_done: bool) -> None:
        """Queue a task again, once, if it has no live process for longer than a worker needs."""
        now, name = time.monotonic(), experiment.name
        if now - self._idle_since.setdefault(name, now) < LOST_SECONDS:
            return
        if task and not self.queue.drop(task):
            return
        del self._idle_since[name]
        if is_done:
            self.done.add(name)
        elif name in self._requeued:
            self.failed[name] = "its worker died twice without an error message"
        else:
            self._requeued.add(name)
            self.queue.add(experiment, self.plan.target)

    def _send(self, signum: signal.Signals) -> None:
        """Send a signal to every running task, including those that began after the last poll."""
        for each in self._unfinished():
            if each.name in self._tasks:
                self.queue.send(self._tasks[each.name], signum)

    def _stop(self) -> None:
        """Remove queued tasks, and interrupt running ones so that they can resume."""
        self.say("sweep: stopping the running experiments; their progress is kept")
        interrupted: set[str] = set()
        until = time.monotonic() + LOST_SECONDS
        while time.monotonic() < until:
            self._tasks = self.queue.tasks()
            active = [each for each in self._unfinished() if self._state(each) in ACTIVE]
            if not active:
                break
            tasks = [self._tasks[each.name] for each in active]
            alive = [each.name for each in tasks if self.queue.is_alive(each)]
            if alive:
                until = time.monotonic() + LOST_SECONDS
            with suppress(CxrError):  # one may have begun since; the next poll shows it
                self.queue.remove([each.name for each in tasks if each.state is State.QUEUED])
            with suppress(CxrError):  # one may have ended since
                new = [name for name in alive if name not in interrupted]
                self.queue.interrupt(new)
                interrupted.update(new)
            time.sleep(POLL_SECONDS)
        self.say("sweep: stopped; run the same command again to resume")

    def _advance_bar(self) -> None:
        self.advance(len(self.done) + len(self.failed), len(self.plan.experiments))

    def _report(self, experiment: Experiment, seconds_left: float) -> None:
        self._advance_bar()
        label = f"{experiment.name} ({shown(experiment.configuration)}, seed {experiment.seed})"
        if experiment.name in self.failed:
            self.say(f"sweep: {label} failed: {self.failed[experiment.name]}")
            return
        left = f", about {_duration(seconds_left)} left" if self._unfinished() else ""
        self.say(f"sweep: {len(self.done)} of {len(self.plan.experiments)} done: {label}{left}")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

"""SweepRunner with a fake queue and a fake clock."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxr.errors import CxrError
from cxr.sweep import runner
from cxr.sweep.plan import Experiment, Plan
from cxr.sweep.queue import Queue, State, Task
from cxr.sweep.runner import SweepRunner


class FakeQueue:
    """A queue whose tasks change state at each poll, as given by a script per experiment.

    A script lists a task's states poll by poll: one of DVC's, `idle` (running without a live
    process), `done` or `gone`. After `|` follow the states once it is queued again. An interrupted
    task becomes `Failed`.
    """

    def __init__(self, **scripts: str) -> None:
        self.root = Path()
        self.scripts = {name: text.split() for name, text in scripts.items()}
        self.finished: set[str] = set()
        self.steps: dict[str, Iterator[str]] = {}
        self.now: dict[str, str] = {}
        self.calls: list[tuple[str, Any]] = []

    def add(self, experiment: Experiment, target: str) -> None:
        assert target == "evaluate"
        self.calls.append(("add", experiment.name))
        self.now[experiment.name] = "Queued"
        script = self.scripts[experiment.name]
        cut = script.index("|") if "|" in script else len(script)
        self.steps[experiment.name] = iter(script[:cut])
        self.scripts[experiment.name] = script[cut + 1 :] or script  # when it is queued again

    def tasks(self) -> dict[str, Task]:
        for name, steps in self.steps.items():
            self.now[name] = next(steps, self.now[name])
            if self.now[name] == "done":
                self.finished.add(name)
        states = {"idle": "Running", "done": "Success"}
        return {
            name: Task(name, State(states.get(state, state)), name)
            for name, state in self.now.items()
            if state != "gone"
        }

    def is_alive(self, task: Task) -> bool:
        return self.now[task.name] == "Running"

    def send(self, task: Task, signum: signal.Signals) -> None:
        self.calls.append(("send", (task.name, signum)))

    def start(self, jobs: int) -> None:
        self.calls.append(("start", jobs))

    def remove(self, names: list[str]) -> None:
        for name in names:
            self.calls.append(("remove", name))
            self.now.pop(name)
            self.steps.pop(name, None)

    def interrupt(self, names: list[str]) -> None:
        for name in names:
            self.calls.append(("interrupt", name))
            self.now[name] = "Failed"
            self.steps.pop(name)

    def drop(self, task: Task) -> bool:
        self.remove([task.name])
        return True

    def why_failed(self, name: str) -> str:
        return f"{name} diverged"


@pytest.fixture(autouse=True)
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only sleep moves the clock."""
    now = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(runner.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))


def sweep(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, finished: tuple[str, ...] = ()
) -> tuple[SweepRunner, list[str]]:
    experiments = [Experiment(name, {"k": 1}, 0, {}) for name in ("a", "b", "c")]
    plan = Plan("s", [{"k": 1}], [0], 1, 1, 2, "evaluate", experiments)
    monkeypatch.setattr(runner, "done", lambda plan, root: queue.finished)
    lines: list[str] = []
    queue.finished |= set(finished)
    done = set(queue.finished)
    return SweepRunner(plan, queue, lines.append, lambda done, total: None, done), lines  # type: ignore[arg-type]


def calls(queue: FakeQueue, method: str) -> list[Any]:
    return [argument for name, argument in queue.calls if name == method]


def run_until_ctrl_c(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Press Ctrl-C when the first of three experiments is done; returns the printed lines."""
    sweep_runner, lines = sweep(queue, monkeypatch)

    def say(line: str) -> None:
        lines.append(line)
        if "1 of 3 done" in line:
            raise KeyboardInterrupt

    sweep_runner.say = say
    with pytest.raises(KeyboardInterrupt):
        sweep_runner.run()
    return lines


def test_a_sweep_queues_each_experiment_once_and_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = FakeQueue(
        a="Queued Running done", b="Queued Queued Running done", c="Running Running done"
    )
    sweep_runner, lines = sweep(queue, monkeypatch)
    sweep_runner.run()
    assert sweep_runner.done == {"a", "b", "c"}
    assert sweep_runner.failed == {}
    assert calls(queue, "add") == ["a", "b", "c"]
    assert calls(queue, "start") == [2]
    assert [line.split(":")[1] for line in lines] == [f" {n} of 3 done" for n in (1, 2, 3)]
    assert lines[0].endswith("about 4 s left")
    assert "left" not in lines[-1]


def test_a_finished_sweep_does_not_touch_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeQueue()
    queue.now = {"other": "Queued"}
    sweep_runner, _ = sweep(queue, monkeypatch, ("a", "b", "c"))
    sweep_runner.run()
    assert queue.calls == []


@pytest.mark.parametrize("state", ["Queued", "Running"])
def test_active_tasks_from_outside_the_sweep_are_refused(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    queue = FakeQueue(b="done", c="done")
    queue.now = {"other": state}
    sweep_runner, _ = sweep(queue, monkeypatch, ("a",))
    with pytest.raises(CxrError, match=r"holds 1 task from outside this sweep \(other\)"):
        sweep_runner.run()
    assert queue.calls == []


def test_finished_tasks_from_outside_the_sweep_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeQueue(b="done", c="done")
    queue.now = {"other": "Failed", "old": "Success"}
    sweep_runner, _ = sweep(queue, monkeypatch, ("a",))
    sweep_runner.run()
    assert sweep_runner.done == {"a", "b", "c"}


def test_ctrl_c_also_stops_a_task_that_a_worker_has_just_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class RacyQueue(FakeQueue):
        """A queued task starts between the poll and its removal."""

        def remove(self, names: list[str]) -> None:
            if "c" in names and "c" not in self.started:
                self.started.add("c")
                self.now["c"] = "Running"
                raise CxrError("`dvc queue remove` failed: c is not queued")
            super().remove(names)

        def tasks(self) -> dict[str, Task]:
            self.polls += 1
            assert self.polls < 100, "it waits for a task that it has not interrupted"
            return super().tasks()

    queue = RacyQueue(a="Running", b="Running done", c="Queued")
    queue.started, queue.polls = set(), 0
    run_until_ctrl_c(queue, monkeypatch)
    assert calls(queue, "interrupt") == ["a", "c"]


def test_a_task_that_a_worker_takes_during_a_poll_is_not_missed(tmp_path: Path) -> None:
    """DVC's own list, running before queued tasks, misses it; Ctrl-C would leave it running."""
    task = SimpleNamespace(name="a", stash_rev="1" * 40)

    class Celery:
        taken = False

        def listed(self, now: bool) -> list[SimpleNamespace]:
            self.taken = True  # by a worker, right after whichever listing comes first
            return [task] if now else []

        def iter_queued(self) -> list[SimpleNamespace]:
            return self.listed(not self.taken)

        def iter_active(self) -> list[SimpleNamespace]:
            return self.listed(self.taken)

        def iter_failed(self) -> list[SimpleNamespace]:
            return []

        iter_success = iter_failed

    queue = Queue(tmp_path)
    queue.__dict__["_celery"] = Celery()
    assert queue.tasks() == {"a": Task("a", State.RUNNING, task.stash_rev)}


def test_a_failure_is_reported_and_the_others_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeQueue(a="Running Failed", b="Running done", c="Queued Running Running done")
    sweep_runner, lines = sweep(queue, monkeypatch)
    sweep_runner.run()
    assert sweep_runner.failed == {"a": "a diverged"}
    assert sweep_runner.done == {"b", "c"}
    assert any("a (k=1, seed 0) failed: a diverged" in line for line in lines)


def test_a_sweep_adopts_active_tasks_and_queues_failed_ones_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = FakeQueue(a="Running done", b="", c="")
    queue.now = {"a": "Failed", "b": "Running", "c": "Queued"}
    queue.steps = {"b": iter(["Running"] * 3 + ["done"]), "c": iter(["Queued"] * 3 + ["done"])}
    sweep_runner, _ = sweep(queue, monkeypatch)
    sweep_runner.run()
    assert calls(queue, "remove") == ["a"]
    assert calls(queue, "add") == ["a"]
    assert sweep_runner.done == {"a", "b", "c"}


@pytest.mark.parametrize("lost", ["idle", "gone", "Success"])
def test_a_lost_experiment_is_queued_again_once(monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    queue = FakeQueue(a=f"Running {lost} | Running done", b="done", c="done")
    sweep_runner, _ = sweep(queue, monkeypatch)
    sweep_runner.run()
    assert sweep_runner.done == {"a", "b", "c"}
    assert calls(queue, "add").count("a") == 2
    assert runner.time.monotonic() >= runner.LOST_SECONDS

    queue = FakeQueue(a=f"Running {lost} | Running {lost}", b="done", c="done")
    sweep_runner, _ = sweep(queue, monkeypatch)
    sweep_runner.run()
    assert sweep_runner.failed == {"a": "its worker died twice without an error message"}


def test_a_task_is_not_lost_while_its_worker_starts_or_collects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DVC creates a working copy before the process starts and collects results after its end."""
    idle = " ".join(["idle"] * 30)
    queue = FakeQueue(a=f"{idle} Running {idle} Running {idle} done", b="done", c="done")
    sweep_runner, _ = sweep(queue, monkeypatch)
    sweep_runner.run()
    assert sweep_runner.done == {"a", "b", "c"}
    assert calls(queue, "add").count("a") == 1


def test_workers_that_have_exited_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = " ".join(["Queued"] * 40)
    queue = FakeQueue(a="done", b=f"{waits} Running done", c="done")
    sweep_runner, _ = sweep(queue, monkeypatch)
    sweep_runner.run()
    assert 2 <= len(calls(queue, "start")) <= 4


def test_ctrl_z_suspends_the_running_tasks_and_fg_resumes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This process itself is not stopped: os.kill is replaced."""
    queue = FakeQueue(a="Running Running done", b="Queued", c="done")
    sweep_runner, _ = sweep(queue, monkeypatch)
    monkeypatch.setattr(os, "kill", lambda pid, signum: None)
    first_signals = iter([signal.SIGTSTP, signal.SIGCONT])

    def sleep(seconds: float) -> None:
        if signum := next(first_signals, None):
            signal.raise_signal(signum)
        else:
            raise KeyboardInterrupt

    sweep_runner._tasks = queue.tasks()
    monkeypatch.setattr(runner.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        sweep_runner.run()
    sent = [call[1] for call in queue.calls if call[0] == "send"]
    assert [each for each in sent if each[0] == "a"] == [
        ("a", signal.SIGSTOP), ("a", signal.SIGCONT)
    ]  # fmt: skip


def test_ctrl_c_removes_the_queued_tasks_and_interrupts_the_running_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = FakeQueue(a="Running", b="Running done", c="Queued")
    lines = run_until_ctrl_c(queue, monkeypatch)
    assert calls(queue, "remove") == ["c"]
    assert calls(queue, "interrupt") == ["a"]
    assert lines[-1] == "sweep: stopped; run the same command again to resume"

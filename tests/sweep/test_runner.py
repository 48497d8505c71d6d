"""The course of a sweep, on a queue that is made up and a clock that jumps."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import CxrError
from cxr.sweep import runner
from cxr.sweep.plan import Experiment, Plan
from cxr.sweep.queue import State, Task
from cxr.sweep.runner import Course


class MadeUp:
    """A queue whose workers do one step of their work at every look, as a script has it.

    A script gives for each experiment what becomes of its task, look by look: a state, `idle`
    (running, and nothing works on it), `done` or `gone`. What follows an interrupt is `Failed`.
    """

    def __init__(self, **scripts: str) -> None:
        self.root = Path()
        self.scripts = {name: text.split() for name, text in scripts.items()}
        self.there: set[str] = set()
        self.steps: dict[str, Iterator[str]] = {}
        self.now: dict[str, str] = {}
        self.calls: list[tuple[str, Any]] = []

    def add(self, experiment: Experiment) -> None:
        self.calls.append(("add", experiment.name))
        self.now[experiment.name] = "Queued"
        script = self.scripts[experiment.name]
        cut = script.index("|") if "|" in script else len(script)
        self.steps[experiment.name] = iter(script[:cut])
        self.scripts[experiment.name] = script[cut + 1 :] or script  # the next time

    def tasks(self) -> dict[str, Task]:
        for name, steps in self.steps.items():
            self.now[name] = next(steps, self.now[name])
            if self.now[name] == "done":
                self.there.add(name)
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
def jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock moves only when somebody sleeps."""
    now = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(runner.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))


def sweep(
    queue: MadeUp, monkeypatch: pytest.MonkeyPatch, already: tuple[str, ...] = ()
) -> tuple[Course, list[str]]:
    experiments = [Experiment(name, {"k": 1}, 0, {}) for name in ("a", "b", "c")]
    plan = Plan("s", [{"k": 1}], [0], 1, 1, 2, experiments)
    monkeypatch.setattr(runner, "done", lambda plan, root: queue.there)
    said: list[str] = []
    queue.there |= set(already)
    return Course(plan, queue, said.append, lambda done, total: None, set(queue.there)), said  # type: ignore[arg-type]


def named(queue: MadeUp, what: str) -> list[Any]:
    return [name for call, name in queue.calls if call == what]


def run_until_ctrl_c(queue: MadeUp, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stop a sweep as soon as the first of its three experiments is done; what it has said."""
    under_way, said = sweep(queue, monkeypatch)

    def say(line: str) -> None:
        said.append(line)
        if "1 of 3 done" in line:
            raise KeyboardInterrupt

    under_way.say = say
    with pytest.raises(KeyboardInterrupt):
        under_way.run()
    return said


def test_everything_is_queued_once_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MadeUp(
        a="Queued Running done", b="Queued Queued Running done", c="Running Running done"
    )
    under_way, said = sweep(queue, monkeypatch)
    under_way.run()
    assert under_way.done == {"a", "b", "c"}
    assert under_way.failed == {}
    assert named(queue, "add") == ["a", "b", "c"]
    assert named(queue, "start") == [2]
    assert [line.split(":")[1] for line in said] == [f" {n} of 3 done" for n in (1, 2, 3)]
    assert said[0].endswith("about 4 s left")
    assert "left" not in said[-1]


def test_what_is_done_is_not_run_and_the_queue_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MadeUp()
    queue.now = {"another's": "Queued"}
    under_way, _ = sweep(queue, monkeypatch, ("a", "b", "c"))
    under_way.run()
    assert queue.calls == []


@pytest.mark.parametrize("state", ["Queued", "Running"])
def test_tasks_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    queue = MadeUp(b="done", c="done")
    queue.now = {"another's": state}
    under_way, _ = sweep(queue, monkeypatch, ("a",))
    with pytest.raises(CxrError, match=r"holds 1 that are not of this sweep \(another's\)"):
        under_way.run()
    assert queue.calls == []


def test_tasks_of_others_that_are_over_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MadeUp(b="done", c="done")
    queue.now = {"another's": "Failed", "old": "Success"}
    under_way, _ = sweep(queue, monkeypatch, ("a",))
    under_way.run()
    assert under_way.done == {"a", "b", "c"}


def test_ctrl_c_stops_what_runs_though_a_worker_takes_a_task_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Raced(MadeUp):
        """A queued task begins between the look at the queue and its removal."""

        def remove(self, names: list[str]) -> None:
            if "c" in names and "c" not in self.began:
                self.began.add("c")
                self.now["c"] = "Running"
                raise CxrError("`dvc queue remove` failed: c is no task that waits")
            super().remove(names)

        def tasks(self) -> dict[str, Task]:
            self.looks += 1
            assert self.looks < 100, "it waits for what it has not interrupted"
            return super().tasks()

    queue = Raced(a="Running", b="Running done", c="Queued")
    queue.began, queue.looks = set(), 0
    run_until_ctrl_c(queue, monkeypatch)
    assert named(queue, "interrupt") == ["a", "c"]


def test_a_failure_is_told_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MadeUp(a="Running Failed", b="Running done", c="Queued Running Running done")
    under_way, said = sweep(queue, monkeypatch)
    under_way.run()
    assert under_way.failed == {"a": "a diverged"}
    assert under_way.done == {"b", "c"}
    assert any("a (k=1, seed 0) failed: a diverged" in line for line in said)


def test_a_sweep_takes_up_what_waits_and_runs_and_tries_again_what_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = MadeUp(a="Running done", b="", c="")
    queue.now = {"a": "Failed", "b": "Running", "c": "Queued"}
    queue.steps = {"b": iter(["Running"] * 3 + ["done"]), "c": iter(["Queued"] * 3 + ["done"])}
    under_way, _ = sweep(queue, monkeypatch)
    under_way.run()
    assert named(queue, "remove") == ["a"]
    assert named(queue, "add") == ["a"]
    assert under_way.done == {"a", "b", "c"}


@pytest.mark.parametrize("lost", ["idle", "gone", "Success"])
def test_what_a_dead_worker_left_is_run_again_once(
    monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    queue = MadeUp(a=f"Running {lost} | Running done", b="done", c="done")
    under_way, _ = sweep(queue, monkeypatch)
    under_way.run()
    assert under_way.done == {"a", "b", "c"}
    assert named(queue, "add").count("a") == 2
    assert runner.time.monotonic() >= runner.LOST_SECONDS

    queue = MadeUp(a=f"Running {lost} | Running {lost}", b="done", c="done")
    under_way, _ = sweep(queue, monkeypatch)
    under_way.run()
    assert under_way.failed == {"a": "its worker ended without a word, twice"}


def test_a_worker_that_comes_and_goes_is_given_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC lays down the working copy before the process starts, and collects after it has ended."""
    idle = " ".join(["idle"] * 30)
    queue = MadeUp(a=f"{idle} Running {idle} Running {idle} done", b="done", c="done")
    under_way, _ = sweep(queue, monkeypatch)
    under_way.run()
    assert under_way.done == {"a", "b", "c"}
    assert named(queue, "add").count("a") == 1


def test_workers_that_went_home_are_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = " ".join(["Queued"] * 40)
    queue = MadeUp(a="done", b=f"{waits} Running done", c="done")
    under_way, _ = sweep(queue, monkeypatch)
    under_way.run()
    assert 2 <= len(named(queue, "start")) <= 4


def test_ctrl_z_suspends_what_runs_and_fg_resumes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process itself is not stopped here, only what it would stop with it."""
    queue = MadeUp(a="Running Running done", b="Queued", c="done")
    under_way, _ = sweep(queue, monkeypatch)
    monkeypatch.setattr(os, "kill", lambda pid, signum: None)
    at_first = iter([signal.SIGTSTP, signal.SIGCONT])

    def look(seconds: float) -> None:
        if signum := next(at_first, None):
            signal.raise_signal(signum)
        else:
            raise KeyboardInterrupt

    under_way._tasks = queue.tasks()
    monkeypatch.setattr(runner.time, "sleep", look)
    with pytest.raises(KeyboardInterrupt):
        under_way.run()
    sent = [call[1] for call in queue.calls if call[0] == "send"]
    assert [each for each in sent if each[0] == "a"] == [
        ("a", signal.SIGSTOP), ("a", signal.SIGCONT)
    ]  # fmt: skip


def test_ctrl_c_empties_the_queue_of_ours_and_lets_what_runs_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = MadeUp(a="Running", b="Running done", c="Queued")
    said = run_until_ctrl_c(queue, monkeypatch)
    assert named(queue, "remove") == ["c"]
    assert named(queue, "interrupt") == ["a"]
    assert said[-1] == "sweep: stopped; the same command goes on"

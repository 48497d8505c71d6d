"""How a sweep uses its slots, with slots that only pretend to run."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import toy

from cxr.errors import CxrError
from cxr.lineage.snapshot import Packed, Snapshot
from cxr.sweep import runner
from cxr.sweep.experiment import Lost, Stopped
from cxr.sweep.plan import Experiment, Place
from cxr.sweep.runner import State, SweepRunner

SNAPSHOT = Snapshot("", "", "", "", b"")
PACKED = Packed("", "", "")
Behaviour = Callable[["FakeSlot", str], Packed]


class FakeSlot:
    """Behaves as a function says; can be lost for good."""

    def __init__(self, place: str, behave: Behaviour) -> None:
        self.place, self.behave = place, behave
        self.ran: list[str] = []
        self.stopped = Event()

    def run(self, snapshot: Any, experiment: Experiment, log: Path) -> Packed:
        self.ran.append(experiment.name)
        return self.behave(self, experiment.name)

    def send(self, signum: int) -> None: ...

    def stop(self) -> None:
        self.stopped.set()


def succeed(slot: FakeSlot, name: str) -> Packed:
    return PACKED


def lose(slot: FakeSlot, name: str) -> Packed:
    raise Lost("out of memory")


def lose_for_good(slot: FakeSlot, name: str) -> Packed:
    raise Lost("its node is lost", for_good=True)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    """Of a sweep of six experiments, none of which is done."""
    monkeypatch.setattr(runner, "receive", lambda ended, root: None)
    monkeypatch.setattr(runner, "unlogged", lambda log: {"train-cnn: note: no MLflow"})
    monkeypatch.setattr(runner, "outcomes", lambda plan, names, root: {n: {} for n in names})
    return State(toy.plan(*range(6), place=Place()), {})


def run(state: State, *slots: FakeSlot, show: Callable[[State], None] = lambda state: None) -> Any:
    """Run all experiments that are not done; returns the lines said."""
    said: list[str] = []
    SweepRunner(state, SNAPSHOT, slots, Path(), said.append, show).run()
    return said


def test_every_experiment_runs_once_and_all_slots_are_used(state: State) -> None:
    def slowly(slot: FakeSlot, name: str) -> Packed:
        time.sleep(0.02)
        return PACKED

    a, b = FakeSlot("a", slowly), FakeSlot("b", slowly)
    run(state, a, b)
    assert sorted(a.ran + b.ran) == sorted(each.name for each in state.plan.experiments)
    assert a.ran and b.ran
    assert len(state.outcomes) == 6


def test_only_experiments_that_are_not_done_run(state: State) -> None:
    first, *others = (each.name for each in state.plan.experiments)
    state.outcomes[first] = {}
    slot = FakeSlot("a", succeed)
    said = run(state, slot)
    assert slot.ran == others
    assert said[0] == f"sweep: {others[0]}: train-cnn: note: no MLflow"
    assert said[1].startswith(f"sweep: 2 of 6 done: {others[0]} (train.cnn.lr=1, seed 0), about ")
    assert sum("no MLflow" in line for line in said) == 1  # the others noted the same
    assert said[-1].endswith("done: toy-5-s0 (train.cnn.lr=5, seed 0)")


def test_a_failure_stops_no_other(state: State) -> None:
    def fail_third(slot: FakeSlot, name: str) -> Packed:
        if name == "toy-2-s0":
            raise CxrError("the loss is NaN")
        return PACKED

    said = run(state, FakeSlot("a", fail_third))
    assert state.failed == {"toy-2-s0": "the loss is NaN"}
    assert len(state.outcomes) == 5
    assert "sweep: toy-2-s0 (train.cnn.lr=2, seed 0) failed: the loss is NaN" in said


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), CxrError("git read-tree failed")]
)
def test_an_error_of_disk_or_git_is_the_failure_of_one_experiment(
    state: State, error: Exception
) -> None:
    def fill(slot: FakeSlot, name: str) -> Packed:
        if name == "toy-0-s0":
            raise error
        return PACKED

    run(state, FakeSlot("a", fill))
    assert state.failed == {"toy-0-s0": str(error)}
    assert len(state.outcomes) == 5


def test_a_lost_experiment_runs_again_elsewhere(state: State) -> None:
    bad, good = FakeSlot("bad", lose_for_good), FakeSlot("good", succeed)
    said = run(state, bad, good)
    assert (len(bad.ran), len(good.ran)) == (1, 6)
    assert len(state.outcomes) == 6
    assert f"sweep: bad is lost (its node is lost); {bad.ran[0]} runs again" in said


def test_an_experiment_that_kills_every_process_fails(state: State) -> None:
    def lose_one(slot: FakeSlot, name: str) -> Packed:
        return lose(slot, name) if name == "toy-1-s0" else PACKED

    slot = FakeSlot("a", lose_one)
    run(state, slot)
    assert slot.ran.count("toy-1-s0") == runner.MOST_LOSSES
    expected = "its process died 3 times: out of memory"
    assert state.failed == {"toy-1-s0": expected}
    assert len(state.outcomes) == 5


def test_without_slots_the_sweep_ends_with_what_to_do(state: State) -> None:
    with pytest.raises(CxrError, match="every node of the cluster is lost; start it again, and"):
        run(state, FakeSlot("a", lose_for_good), FakeSlot("b", lose_for_good))
    assert not state.failed


def test_an_interrupt_stops_every_slot_and_waits_for_them(state: State) -> None:
    ended: list[str] = []

    def wait_for_stop(slot: FakeSlot, name: str) -> Packed:
        assert slot.stopped.wait(10)
        time.sleep(0.05)
        ended.append(name)
        raise Stopped

    def interrupt(state: State) -> None:
        assert len(state.running) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(state, FakeSlot("a", wait_for_stop), FakeSlot("b", wait_for_stop), show=interrupt)
    assert len(ended) == 2
    assert (state.outcomes, state.failed) == ({}, {})

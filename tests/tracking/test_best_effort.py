"""A failure of MLflow is reported once and has no other effect."""

from pathlib import Path

import pytest

from cxr.lineage.run_log import RunLog
from cxr.tracking import best_effort
from cxr.tracking.best_effort import BestEffort


class Failing:
    """A tracker whose store fails after the run was created."""

    def __init__(self, root: Path, experiment: str) -> None:
        self.calls: list[str] = []
        Failing.last = self

    def start(self, log: RunLog) -> None:
        self.calls.append("start")

    def log_epoch(self, log: RunLog, values: dict[str, float]) -> None:
        self.calls.append("log_epoch")
        raise ValueError("unexpected")

    def finish(self, *_: object, **__: object) -> None:
        self.calls.append("finish")


def test_the_first_failure_is_reported_and_later_calls_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best_effort, "Tracker", Failing)
    notes: list[str] = []
    tracker, log = BestEffort(tmp_path, "phantom-28", notes.append), RunLog("train-cnn", "cnn")
    tracker.start(log)
    for epoch in (1, 2, 3):
        tracker.log_epoch(log, {"epoch": epoch})
    tracker.finish(log, {}, lambda path: None, 0)
    assert Failing.last.calls == ["start", "log_epoch"]
    assert notes == [
        "note: unexpected; the stage continues and its result and record are kept; run `cxr sync` "
        "to log it to MLflow later"
    ]


def test_a_store_that_cannot_be_opened_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(root: Path, experiment: str) -> None:
        raise OSError("no such folder")

    monkeypatch.setattr(best_effort, "Tracker", closed)
    notes: list[str] = []
    tracker, log = BestEffort(tmp_path, "phantom-28", notes.append), RunLog("train-cnn", "cnn", "a")
    tracker.start(log)
    tracker.abandon(log, "FAILED", "why", tmp_path / "log.txt")
    assert len(notes) == 1 and log.run_id == "a"


def test_an_interrupt_is_not_treated_as_a_failure_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(root: Path, experiment: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(best_effort, "Tracker", stopped)
    with pytest.raises(KeyboardInterrupt):
        BestEffort(tmp_path, "phantom-28", lambda line: None)

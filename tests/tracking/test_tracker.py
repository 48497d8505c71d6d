"""Runs in MLflow that several experiments write, because they evaluate the same model."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cxr.lineage.run_log import RunLog
from cxr.tracking import tracker
from cxr.tracking.tracker import Tracker


def test_two_experiments_that_finish_a_run_at_once_log_each_point_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy2(empty_store, tmp_path)
    both_have_read, read_points = threading.Barrier(2, timeout=1), tracker.shown_metrics

    def slowly(log: RunLog) -> dict[str, list[tuple[int, float]]]:
        """Wait for the other experiment, after the run's points were read."""
        with suppress(threading.BrokenBarrierError):
            both_have_read.wait()
        return read_points(log)

    def finish(experiment: str) -> None:
        log = RunLog("evaluate-cnn", "cnn", "1" * 32, metrics={"auroc": 0.9}, shared=True)
        tags = {"cxr.experiment": experiment}
        Tracker(tmp_path, "phantom-28").finish(log, tags, lambda path: None)

    monkeypatch.setattr(tracker, "shown_metrics", slowly)
    threads = [threading.Thread(target=finish, args=[name]) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    store = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = store.search_runs([store.get_experiment_by_name("phantom-28").experiment_id])
    assert sorted(run.data.tags["cxr.experiment"].split(", ")) == ["one", "two"]
    assert len(store.get_metric_history(run.info.run_id, "auroc")) == 1

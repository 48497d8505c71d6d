"""Several stages at once in one working copy, and a stage whose DVC process was killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from pipeline import Pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def made(kept: Path, tmp_path: Path) -> Pipeline:
    return Pipeline(kept).copy(tmp_path / "p")


def repro(pipeline: Pipeline, stage: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["dvc", "repro", "--single-item", stage], cwd=pipeline.folder, text=True,
        env=pipeline.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def runs(pipeline: Pipeline, stage: str) -> list[Run]:
    """The runs of a stage, latest first."""
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    return list(store.search_runs(ids, f"tags.`cxr.stage` = '{stage}'"))


def test_three_trainings_can_run_at_once(made: Pipeline) -> None:
    stages = [f"train-{model}" for model in ("cnn", "squeezenet", "vit")]
    made.change(train__protocol__epochs=4)
    before = {stage: len(runs(made, stage)) for stage in stages}
    processes = {stage: repro(made, stage) for stage in stages}
    for process in processes.values():
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        assert "note:" not in printed
    for stage in stages:
        found = runs(made, stage)
        assert len(found) == before[stage] + 1
        assert {run.info.status for run in found} == {"FINISHED"}
    assert made.repro("--single-item", *stages) == []


def test_an_orphaned_stage_is_named_and_its_progress_is_reused(made: Pipeline) -> None:
    """After `kill -9` of `dvc` training continues; the next `dvc repro` must not start another."""
    made.change(train__cnn__lr=0.004, train__protocol__epochs=60, train__protocol__patience=60)
    process = repro(made, "train-cnn")
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch  2/60" in line:
            break
    process.kill()
    process.stdout.close()
    process.wait()
    second = made.run("dvc", "repro", "--single-item", "train-cnn")
    assert second.returncode == 255
    (refusal,) = [line for line in second.stderr.splitlines() if line.startswith("train-cnn:")]
    assert (
        "is already running this stage in this working copy; wait for it, or stop it with `kill "
        in refusal
    )
    orphan = int(refusal.rsplit("`kill ", 1)[1].rstrip("`"))
    (run,) = [run for run in runs(made, "train-cnn") if run.info.status == "RUNNING"]
    os.kill(orphan, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{orphan}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    store = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    assert store.get_run(run.info.run_id).info.status == "KILLED"
    third = made.run("dvc", "repro", "--single-item", "train-cnn")
    assert third.returncode == 0, third.stderr
    assert "train-cnn: resuming from " in third.stdout  # a batch, or a complete epoch
    done = store.get_run(run.info.run_id)
    assert done.info.status == "FINISHED"
    assert "cxr.failure" not in done.data.tags
    history = store.get_metric_history(run.info.run_id, "loss/val")
    assert [point.step for point in history] == list(range(1, 61))
    assert made.run_id("train-cnn") == run.info.run_id

"""Experiments with the same result of a model share its run in MLflow."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from pipeline import Pipeline

from cxr.audit.finding import Verdict
from cxr.lineage.records import EXPERIMENT_TAG, ORIGINAL_TAG, RECORD_TAG
from cxr.tracking.format import experiments

pytestmark = pytest.mark.slow

# By the experiment, unlike the CNN.
UNCHANGED = ("squeezenet", "vit", "attributes-only", "all-negative", "prevalence")
BOTH = ["fast", "workspace"]


@pytest.fixture
def made(kept: Path, tmp_path: Path) -> Pipeline:
    """The pipeline with an experiment `fast`, in which only the CNN is trained differently."""
    return Pipeline(kept).copy(tmp_path / "p")


def runs(pipeline: Pipeline) -> list[Run]:
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    return list(store.search_runs(ids, run_view_type=ViewType.ALL))


def named(pipeline: Pipeline, name: str) -> list[Run]:
    return [run for run in runs(pipeline) if run.info.run_name == name]


def shared_run(pipeline: Pipeline, name: str) -> Run:
    """The only run of a result that both experiments have."""
    (run,) = named(pipeline, f"evaluate-{name}")
    return run


def recorded_id(pipeline: Pipeline, name: str) -> str:
    logs = pipeline.json("records/evaluate.json")["runs"]
    (run_id,) = (log["run_id"] for log in logs if log["name"] == name)
    return str(run_id)


def check_sharing(pipeline: Pipeline) -> None:
    """One run for each unchanged model and baseline, and one per experiment for all others."""
    records = {run.data.tags[RECORD_TAG] for run in runs(pipeline) if "(" in run.info.run_name}
    for name in UNCHANGED:
        run = shared_run(pipeline, name)
        assert sorted(experiments(run.data.tags)) == BOTH
        assert run.data.tags[ORIGINAL_TAG] == recorded_id(pipeline, f"evaluate-{name}")
        assert run.info.run_id != run.data.tags[ORIGINAL_TAG]
        assert (run.info.status, run.info.lifecycle_stage) == ("FINISHED", "active")
    of_cnn = {run.data.tags[EXPERIMENT_TAG]: run for run in named(pipeline, "evaluate-cnn")}
    assert sorted(of_cnn) == BOTH
    assert len(named(pipeline, "evaluate-cnn")) == len(BOTH)
    ids = {name: run.data.tags[ORIGINAL_TAG] for name, run in of_cnn.items()}
    assert ids["workspace"] == recorded_id(pipeline, "evaluate-cnn") != ids["fast"]
    assert of_cnn["fast"].data.params["train.cnn.lr"] == "0.01"
    assert of_cnn["fast"].data.tags[RECORD_TAG] in records
    for stage in ("train-cnn", "evaluate", "maps-cnn", "gradcam"):
        (own,), (of_experiment,) = named(pipeline, stage), named(pipeline, f"{stage} (fast)")
        assert EXPERIMENT_TAG not in own.data.tags
        assert of_experiment.data.tags[EXPERIMENT_TAG] == "fast"
    for stage in ("train-squeezenet", "train-vit", "maps-squeezenet", "maps-vit"):
        assert len(named(pipeline, stage)) == 1
        assert named(pipeline, f"{stage} (fast)") == []


def audit(pipeline: Pipeline, *target: str) -> str:
    """What `cxr audit` prints; every check must hold, without notes."""
    done = pipeline.run("cxr", "audit", "--json", *target)
    assert json.loads(done.stdout)["verdict"] == Verdict.HOLDS, done.stdout
    return pipeline.run("cxr", "audit", *target).stdout


def test_an_experiment_that_changes_one_model_shares_the_runs_of_all_others(
    made: Pipeline,
) -> None:
    check_sharing(made)
    assert made.run("cxr", "sync").returncode == 0  # the test has moved the folder
    check_sharing(made)
    audit(made)
    audit(made, named(made, "evaluate (fast)")[0].info.run_id)


def test_sync_rebuilds_one_run_per_shared_result_with_all_its_experiments(made: Pipeline) -> None:
    (made.folder / "mlflow.db").unlink()
    shutil.rmtree(made.folder / "mlruns")
    assert made.run("cxr", "sync").returncode == 0
    check_sharing(made)
    audit(made)
    before = {run.info.run_id: run.to_dictionary() for run in runs(made)}
    assert made.run("cxr", "sync").stdout.startswith("0 runs synced")
    assert {run.info.run_id: run.to_dictionary() for run in runs(made)} == before


def test_sync_adds_a_missing_experiment_to_a_shared_run(made: Pipeline) -> None:
    made.run("cxr", "sync")
    before = shared_run(made, "vit").info.run_id
    with sqlite3.connect(made.folder / "mlflow.db") as base:
        statement = "UPDATE tags SET value = 'fast' WHERE key = ? AND run_uuid = ?"
        assert base.execute(statement, (EXPERIMENT_TAG, before)).rowcount == 1
    base.close()
    assert made.run("cxr", "audit").returncode == 1
    first, last = made.run("cxr", "sync").stdout.splitlines()
    assert first.startswith("completed ") and "(evaluate-vit)" in first
    assert last.startswith("1 run synced")
    assert shared_run(made, "vit").info.run_id == before
    check_sharing(made)
    audit(made)


def test_a_shared_run_is_found_by_its_id_in_the_record_and_in_mlflow(made: Pipeline) -> None:
    made.run("cxr", "sync")
    recorded, shown = recorded_id(made, "evaluate-vit"), shared_run(made, "vit").info.run_id
    for text in (recorded, recorded[:12], shown, shown[:12]):
        lines = audit(made, text).splitlines()
        assert lines[0] == f"✓ run {recorded}: all checks passed"
        (line,) = (line for line in lines if "(evaluate-vit)" in line)
        assert line.endswith(
            f"run {recorded} (evaluate-vit) matches its record; its id in MLflow is {shown}"
        )
        (line,) = (line for line in lines if "(evaluate)" in line)
        assert line.endswith("(evaluate) matches its record")
    done = made.run("cxr", "diff", shown, recorded)
    assert done.stdout.splitlines()[-1] == (
        "The results are the same, and so is everything that affects them."
    )

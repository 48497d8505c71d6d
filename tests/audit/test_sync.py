"""`cxr sync` adds to MLflow what it lacks of the records, and nothing twice."""

import re
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from pipeline import Pipeline

from cxr.lineage.records import DESCRIPTION_TAG, EXPERIMENT_TAG, ORIGINAL_TAG, RECORD_TAG

pytestmark = pytest.mark.slow

# One of each stage; for the experiment also train-cnn, evaluate, maps-cnn and gradcam; and one of
# each evaluated model and baseline, which both share, except the CNN.
N_RUNS = 11 + 4 + 6 + 1

# What MLflow adds to the file name of each image of a slider.
TIMED = re.compile(r"\+timestamp\+\d+\+[0-9a-f-]{36}")


@pytest.fixture
def made(kept: Path, tmp_path: Path) -> Pipeline:
    return Pipeline(kept).copy(tmp_path / "p")


def runs(pipeline: Pipeline) -> dict[str, Run]:
    """All runs, by their ids in the records."""
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    stored = store.search_runs(ids, run_view_type=ViewType.ALL)
    return {run.data.tags.get(ORIGINAL_TAG, run.info.run_id): run for run in stored}


def shown(pipeline: Pipeline, run: Run) -> dict[str, Any]:
    """Everything MLflow shows of a run, except ids, paths and times of logging.

    A run of several experiments names them in any order, and describes one of them.
    """
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    tags = {k: v for k, v in run.data.tags.items() if k != ORIGINAL_TAG}
    experiments = sorted(tags.pop(EXPERIMENT_TAG, "").split(", "))
    if len(experiments) > 1:
        assert tags.pop(RECORD_TAG)
        assert f"cxr audit {run.data.tags[ORIGINAL_TAG][:8]}" in tags.pop(DESCRIPTION_TAG)
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    files = [path for path in artifacts.rglob("*") if path.is_file()]
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "experiments": experiments,
        "tags": tags,
        "curves": {
            name: [(p.step, p.value) for p in store.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        },
        "data": sorted(
            (each.dataset.name, each.dataset.digest, each.tags[0].value)
            for each in run.inputs.dataset_inputs
        ),
        "files": {
            TIMED.sub("", path.relative_to(artifacts).as_posix()): path.read_bytes()
            for path in files
        },
        "n_files": len(files),
    }


def test_a_lost_database_is_rebuilt(made: Pipeline) -> None:
    """Every run of the working copy and the experiment, with every point and image."""
    made.run("cxr", "sync")
    before = {run_id: shown(made, run) for run_id, run in runs(made).items()}
    assert len(before) == N_RUNS
    # Under a new path, since MLflow keeps a database open within a process.
    other = made.copy(made.folder.with_name("lost"))
    (other.folder / "mlflow.db").unlink()
    rebuilt = other.run("cxr", "sync").stdout.splitlines()[-1]
    assert rebuilt == f"{N_RUNS} runs synced, 0 already up to date"
    repeated = other.run("cxr", "sync").stdout.splitlines()[-1]
    assert repeated == f"0 runs synced, {N_RUNS} already up to date"
    after = runs(other)
    assert {run_id: shown(other, run) for run_id, run in after.items()} == before
    for run_id, run in after.items():
        assert run.data.tags[ORIGINAL_TAG] == run_id
        assert run.info.start_time <= run.info.end_time


def test_two_parallel_syncs_rebuild_each_run_once(made: Pipeline) -> None:
    (made.folder / "mlflow.db").unlink()
    env = made.environment()
    both = [
        subprocess.Popen(["cxr", "sync"], cwd=made.folder, env=env, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(runs(made)) == N_RUNS
    store = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    assert len(store.search_runs(ids, run_view_type=ViewType.ALL)) == N_RUNS


def test_a_deleted_and_an_unfinished_run_are_restored_under_their_ids(made: Pipeline) -> None:
    made.run("cxr", "sync")
    before = runs(made)
    trained, evaluated = made.run_id("train-cnn"), made.run_id("evaluate")
    logs = made.json("records/evaluate.json")["runs"]
    (shared,) = (log["run_id"] for log in logs if log["name"] == "evaluate-vit")
    store = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    store.delete_run(trained)
    store.delete_run(before[shared].info.run_id)
    store.update_run(evaluated, status="RUNNING")
    store.delete_tag(evaluated, "mlflow.note.content")
    lines = made.run("cxr", "sync").stdout.splitlines()
    assert sorted(line.split()[0] for line in lines[:-1]) == ["completed", "restored", "restored"]
    after = runs(made)
    assert after.keys() == before.keys()
    for run_id in (trained, evaluated, shared):
        assert after[run_id].info.run_id == before[run_id].info.run_id
        assert after[run_id].info.lifecycle_stage == "active"
        assert shown(made, after[run_id]) == shown(made, before[run_id])


def test_an_image_missing_from_mlflow_is_restored(made: Pipeline) -> None:
    made.run("cxr", "sync")
    pictures = [
        made.folder / f"mlruns/phantom-28/{made.run_id(stage)}/artifacts/{path}"
        for stage, path in (
            ("maps-cnn", "gradcam/cnn/3.png"),
            ("gradcam", "gradcam/side-by-side/3.png"),
            ("evaluate", "evaluation/auroc.png"),
        )
    ]
    contents = [picture.read_bytes() for picture in pictures]
    for picture in pictures:
        picture.unlink()
    lines = made.run("cxr", "sync").stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["completed"] * len(pictures)
    assert [picture.read_bytes() for picture in pictures] == contents


def test_a_missing_step_of_a_slider_is_restored_and_the_others_stay(made: Pipeline) -> None:
    made.run("cxr", "sync")
    folder = made.folder / f"mlruns/phantom-28/{made.run_id('maps-cnn')}/artifacts/images"
    before = {TIMED.sub("", path.name): path.read_bytes() for path in folder.iterdir()}
    kept = sorted(folder.glob("*.png"))
    lost = kept.pop()
    lost.unlink()
    audit = made.run("cxr", "audit")
    assert "MLflow lacks reports/gradcam/cnn/" in audit.stdout
    assert made.run("cxr", "sync").stdout.startswith("completed")
    assert {TIMED.sub("", path.name): path.read_bytes() for path in folder.iterdir()} == before
    assert [path for path in kept if not path.exists()] == []
    assert len(list(folder.glob("*.png"))) == len(kept) + 1


def test_the_description_of_a_run_names_the_audit_command(made: Pipeline) -> None:
    """It also names the data and the code."""
    run_id = made.run_id("train-vit")
    run = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}").get_run(run_id)
    card = run.data.tags["mlflow.note.content"]
    record = made.json("records/train-vit.json")
    assert f"cxr audit {run_id[:8]}" in card
    assert record["facts"]["inputs"]["data/processed"] in card
    assert record["facts"]["code"]["commit"] in card
    assert record["outputs"]["models/vit"]["md5"] in card


def test_a_run_is_found_by_the_md5_of_an_input_or_output(made: Pipeline) -> None:
    record = made.json("records/train-vit.json")
    md5 = record["outputs"]["models/vit"]["md5"]
    store = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    (maker,) = store.search_runs(ids, f"tags.`cxr.made.models/vit` = '{md5}'")
    assert maker.info.run_id == record["runs"][0]["run_id"]
    processed = record["facts"]["inputs"]["data/processed"]
    readers = store.search_runs(ids, f"tags.`cxr.md5.data/processed` = '{processed}'")
    assert {run.info.run_name for run in readers} == {
        "features", "train-cnn", "train-cnn (fast)", "train-squeezenet", "train-vit", "evaluate",
        "evaluate (fast)", "evaluate-cnn", "evaluate-squeezenet", "evaluate-vit",
        "evaluate-attributes-only", "evaluate-all-negative", "evaluate-prevalence", "maps-cnn",
        "maps-cnn (fast)",
        "maps-squeezenet", "maps-vit", "gradcam", "gradcam (fast)",
    }  # fmt: skip


def test_missing_points_and_an_interrupted_rebuild_are_completed(made: Pipeline) -> None:
    (made.folder / "mlflow.db").unlink()
    made.run("cxr", "sync")
    with sqlite3.connect(made.folder / "mlflow.db") as base:
        point = (
            "key = 'loss/val' AND step = 1 AND run_uuid IN (SELECT run_uuid FROM runs WHERE name = "
        )
        assert base.execute(f"DELETE FROM metrics WHERE {point}'train-vit')").rowcount == 1
        assert base.execute("UPDATE runs SET status = 'RUNNING' WHERE name = 'download'").rowcount
    base.close()
    lines = made.run("cxr", "sync").stdout.splitlines()
    assert sorted(line.split()[0] for line in lines[:-1]) == ["completed", "completed"]
    assert len(runs(made)) == N_RUNS
    assert made.run("cxr", "audit").returncode == 0


def test_a_run_that_mlflow_rejects_does_not_stop_the_others(made: Pipeline) -> None:
    made.run("cxr", "sync")
    refused, deleted = made.run_id("train-cnn"), made.run_id("train-vit")
    with sqlite3.connect(made.folder / "mlflow.db") as base:
        base.execute(
            "UPDATE params SET value = '9' WHERE key = 'seed' AND run_uuid = ?", (refused,)
        )
        base.execute("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", (refused,))
        base.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", (deleted,))
    base.close()
    done = made.run("cxr", "sync")
    assert done.returncode == 1
    assert f"restored {deleted[:8]}" in done.stdout
    assert f"could not log run {refused[:8]} to MLflow: " in done.stdout
    assert done.stderr == ""


def test_content_that_a_person_added_to_mlflow_is_kept(made: Pipeline, tmp_path: Path) -> None:
    """Another experiment with artifacts, and an edited description."""
    store = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    location = (tmp_path / "mine/mlruns/7").as_uri()
    mine = store.create_experiment("mine", artifact_location=location)
    picture = made.run_id("maps-cnn")
    store.set_tag(picture, "mlflow.note.content", "look at this")
    made.run("cxr", "sync")
    (made.folder / f"mlruns/phantom-28/{picture}/artifacts/gradcam/cnn/3.png").unlink()
    assert made.run("cxr", "sync").stdout.startswith("completed")
    assert store.get_experiment(mine).artifact_location == location
    assert store.get_run(picture).data.tags["mlflow.note.content"] == "look at this"

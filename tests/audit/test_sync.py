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

from cxr.lineage.records import ORIGINAL_TAG

pytestmark = pytest.mark.slow

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
    """Everything MLflow shows of a run, except ids, paths and times of logging."""
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    tags = {k: v for k, v in run.data.tags.items() if k != ORIGINAL_TAG}
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    files = [path for path in artifacts.rglob("*") if path.is_file()]
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
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
    assert len(before) == 23
    # Under a new path, since MLflow keeps a database open within a process.
    other = made.copy(made.folder.with_name("lost"))
    (other.folder / "mlflow.db").unlink()
    assert other.run("cxr", "sync").returncode == 0
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
    assert len(runs(made)) == 23
    store = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    assert len(store.search_runs(ids, run_view_type=ViewType.ALL)) == 23


def test_a_deleted_and_an_unfinished_run_are_restored_under_their_ids(made: Pipeline) -> None:
    made.run("cxr", "sync")
    before = runs(made)
    trained, evaluated = (
        made.json(f"records/{stage}.json")["runs"][0]["run_id"]
        for stage in ("train-cnn", "evaluate")
    )
    store = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    store.delete_run(trained)
    store.update_run(evaluated, status="RUNNING")
    store.delete_tag(evaluated, "mlflow.note.content")
    lines = made.run("cxr", "sync").stdout.splitlines()
    assert sorted(line.split()[0] for line in lines[:-1]) == ["completed", "restored"]
    after = runs(made)
    assert after.keys() == before.keys()
    for run_id in (trained, evaluated):
        assert after[run_id].info.lifecycle_stage == "active"
        assert shown(made, after[run_id]) == shown(made, before[run_id])


def test_an_image_missing_from_mlflow_is_restored(made: Pipeline) -> None:
    made.run("cxr", "sync")
    run_id = made.run_id("gradcam")
    picture = made.folder / f"mlruns/phantom-28/{run_id}/artifacts/gradcam/cnn/3.png"
    content = picture.read_bytes()
    picture.unlink()
    assert made.run("cxr", "sync").stdout.startswith("completed")
    assert picture.read_bytes() == content


def test_a_missing_step_of_a_slider_is_restored_and_the_others_stay(made: Pipeline) -> None:
    made.run("cxr", "sync")
    folder = made.folder / f"mlruns/phantom-28/{made.run_id('gradcam')}/artifacts/images"
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
    assert {run.info.run_name for run in readers} >= {"train-cnn", "features", "evaluate-vit"}


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
    assert len(runs(made)) == 23
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
    store.set_tag(made.run_id("gradcam"), "mlflow.note.content", "look at this")
    picture = made.run_id("gradcam")
    made.run("cxr", "sync")
    (made.folder / f"mlruns/phantom-28/{picture}/artifacts/gradcam/cnn/3.png").unlink()
    assert made.run("cxr", "sync").stdout.startswith("completed")
    assert store.get_experiment(mine).artifact_location == location
    assert store.get_run(picture).data.tags["mlflow.note.content"] == "look at this"

"""`cxr audit` reports no problem with a sound result, whichever way it was produced or moved."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from pipeline import Pipeline

pytestmark = pytest.mark.slow

CHEAP = "evaluate.threshold_rule=f1"  # re-runs evaluate and the stages of heat maps only


@pytest.fixture
def pipeline(kept: Path, tmp_path: Path) -> Pipeline:
    """A copy of `kept` in another folder; `cxr sync` has updated its artifact locations."""
    pipeline = Pipeline(kept).copy(tmp_path / "another folder")
    assert cxr(pipeline, "sync")["runs"] == []
    return pipeline


def cxr(pipeline: Pipeline, *arguments: str, status: int = 0) -> Any:
    done = pipeline.run("cxr", *arguments, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def problems(answer: dict[str, Any]) -> list[str]:
    """Sentences of all findings that do not hold, notes included."""
    findings = [*answer["findings"], *(f for node in answer["stages"] for f in node["findings"])]
    return [f["says"] for f in findings if f["verdict"] != "holds"]


def clean_audit(pipeline: Pipeline, *target: str) -> dict[str, Any]:
    """Audit; the exit status must be 0 and there must be neither problems nor notes."""
    answer: dict[str, Any] = cxr(pipeline, "audit", *target)
    assert problems(answer) == []
    return answer


def run_ids(pipeline: Pipeline, experiment: str) -> list[str]:
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    (ours,) = (e for e in store.search_experiments() if e.name == "phantom-28")
    runs = store.search_runs([ours.experiment_id], f"tags.`cxr.experiment` = '{experiment}'")
    return [run.info.run_id for run in runs]


def test_a_moved_folder_holds_and_its_artifacts_are_found(pipeline: Pipeline, kept: Path) -> None:
    stages = clean_audit(pipeline)["stages"]
    # Eleven of the working copy, eleven of `fast`, and the evaluation and the CNN behind the maps
    # that `fast` did not make again.
    assert len(stages) == 24
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    run_id = pipeline.run_id("maps-cnn")
    artifact_uri = store.get_run(run_id).info.artifact_uri
    assert kept.as_uri() not in artifact_uri
    assert [a.path for a in store.list_artifacts(run_id, "gradcam/cnn")] == [
        "gradcam/cnn/0.png", "gradcam/cnn/3.png", "gradcam/cnn/labels",
    ]  # fmt: skip


def test_before_the_sync_a_moved_folder_is_a_note(kept: Path, tmp_path: Path) -> None:
    moved = Pipeline(kept).copy(tmp_path / "moved")
    assert problems(cxr(moved, "audit")) == [
        "MLflow still has the artifact paths of this folder before it was moved"
    ]
    assert cxr(moved, "sync")["n_moved"] == 22  # 17 runs, and 5 of `fast`
    assert cxr(moved, "sync")["n_moved"] == 0


def test_results_of_exp_run_the_run_cache_and_exp_apply_hold(pipeline: Pipeline) -> None:
    pipeline.dvc("exp", "run", "-n", "one", "-S", CHEAP)
    clean_audit(pipeline)
    pipeline.git("checkout", "--", ".")
    assert "is cached - skipping run" in pipeline.dvc("repro")
    clean_audit(pipeline)
    for run_id in run_ids(pipeline, "one"):
        stage = clean_audit(pipeline, run_id[:12])["stages"][-1]
        assert stage["record"]["dvc_experiment"] == "one"
    pipeline.dvc("exp", "apply", "one")
    answer = clean_audit(pipeline, "reports/metrics.json")
    assert answer["stages"][-1]["record"]["dvc_experiment"] == "one"


def test_results_of_exp_run_in_a_temporary_copy_hold(pipeline: Pipeline) -> None:
    pipeline.dvc("exp", "run", "--temp", "-n", "aside", "-S", CHEAP)
    clean_audit(pipeline)
    runs = run_ids(pipeline, "aside")
    assert len(runs) == 11
    for run_id in runs:
        clean_audit(pipeline, run_id)


def test_a_temporary_copy_runs_its_own_code(pipeline: Pipeline) -> None:
    """Even if the package installed is that of the working copy."""
    path = pipeline.folder / "src/cxr/evaluation/metrics.py"
    text = path.read_text()
    path.write_text(text + "\nraise ImportError('the code of the queued experiment ran')\n")
    pipeline.dvc("exp", "run", "--queue", "-n", "queued", "-S", CHEAP)
    path.write_text(text)
    assert "Failed" in pipeline.run_queue(1)


def test_results_of_two_queue_workers_hold(pipeline: Pipeline) -> None:
    for name, indices in {"left": "[1]", "right": "[2]"}.items():
        pipeline.dvc("exp", "run", "--queue", "-n", name, "-S", f"gradcam.indices={indices}")
    pipeline.run_queue(2)
    clean_audit(pipeline)
    for name in ("left", "right"):
        (first, *_) = run_ids(pipeline, name)
        clean_audit(pipeline, first)
    answer = cxr(pipeline, "diff", "left", "right")
    assert [(c["name"], c["a"], c["b"]) for c in answer["parameters"]] == [
        ("gradcam.indices", [1], [2])
    ]


def test_a_fresh_clone_holds_after_pull_and_sync(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    Pipeline(kept).git("clone", "-q", str(kept), str(folder))
    clone = Pipeline(folder)
    answer = cxr(clone, "audit", status=1)
    assert {f["fix"] for f in answer["findings"] if f["where"] == "record"} == {"dvc pull"}
    clone.dvc("pull")
    assert problems(cxr(clone, "audit")) == [
        "MLflow's database is missing; it can be rebuilt from the records"
    ]
    done = cxr(clone, "sync")
    assert {run["how"] for run in done["runs"]} == {"rebuilt"}
    assert len(done["runs"]) == 17
    assert not any(run["lost"] for run in done["runs"])
    clean_audit(clone)
    for run in done["runs"][:2]:  # the recorded run id and the new one name the same run
        recorded, new = (clean_audit(clone, run[key]) for key in ("run_id", "now"))
        assert recorded["target"] == new["target"]
    assert cxr(clone, "sync") == {"runs": [], "refused": {}, "n_there": 17, "n_moved": 0}

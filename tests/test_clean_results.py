"""Audit accuses nobody where nothing is wrong, however a result came to be where it is."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from pipeline import Pipeline

pytestmark = pytest.mark.slow

CHEAP = "evaluate.threshold_rule=f1"  # runs evaluate and gradcam alone


@pytest.fixture
def made(kept: Path, tmp_path: Path) -> Pipeline:
    """The same folder moved elsewhere, its artifacts' places repaired."""
    pipeline = Pipeline(kept).copy(tmp_path / "another place")
    assert cxr(pipeline, "sync")["runs"] == []
    return pipeline


def cxr(pipeline: Pipeline, *arguments: str, status: int = 0) -> Any:
    done = pipeline.run("cxr", *arguments, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def accusations(answer: dict[str, Any]) -> list[str]:
    findings = [*answer["findings"], *(f for node in answer["stages"] for f in node["findings"])]
    return [f["says"] for f in findings if f["verdict"] != "holds"]


def holds(pipeline: Pipeline, *target: str) -> dict[str, Any]:
    """Audit: exit status 0, and not even a note."""
    answer: dict[str, Any] = cxr(pipeline, "audit", *target)
    assert accusations(answer) == []
    return answer


def run_ids(pipeline: Pipeline, experiment: str) -> list[str]:
    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    (found,) = (e for e in store.search_experiments() if e.name == "phantom-28")
    runs = store.search_runs([found.experiment_id], f"tags.`cxr.experiment` = '{experiment}'")
    return [run.info.run_id for run in runs]


def test_repro_and_a_moved_folder(made: Pipeline, kept: Path) -> None:
    """`made` is a copy elsewhere: its pictures are found there, and all holds."""
    assert len(holds(made)["stages"]) == 16  # eight of the working copy, eight of `fast`
    store = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    run_id = made.run_id("gradcam")
    place = store.get_run(run_id).info.artifact_uri
    assert kept.as_uri() not in place
    assert [a.path for a in store.list_artifacts(run_id, "gradcam/cnn")] == [
        "gradcam/cnn/0.png", "gradcam/cnn/3.png", "gradcam/cnn/labels",
    ]  # fmt: skip


def test_before_the_sync_a_moved_folder_is_a_note(kept: Path, tmp_path: Path) -> None:
    moved = Pipeline(kept).copy(tmp_path / "moved")
    assert accusations(cxr(moved, "audit")) == [
        "MLflow still has the artifact paths of this folder before it was moved"
    ]
    assert cxr(moved, "sync")["n_moved"] == 23  # fourteen, and nine of `fast`
    assert cxr(moved, "sync")["n_moved"] == 0


def test_exp_run_run_cache_and_apply(made: Pipeline) -> None:
    made.dvc("exp", "run", "-n", "one", "-S", CHEAP)
    holds(made)
    made.git("checkout", "--", ".")
    assert "is cached - skipping run" in made.dvc("repro")
    holds(made)
    for run_id in run_ids(made, "one"):
        assert holds(made, run_id[:12])["stages"][-1]["record"]["dvc_experiment"] == "one"
    made.dvc("exp", "apply", "one")
    answer = holds(made, "reports/metrics.json")
    assert answer["stages"][-1]["record"]["dvc_experiment"] == "one"


def test_a_temporary_copy(made: Pipeline) -> None:
    made.dvc("exp", "run", "--temp", "-n", "aside", "-S", CHEAP)
    holds(made)
    runs = run_ids(made, "aside")
    assert len(runs) == 8
    for run_id in runs:
        holds(made, run_id)


def test_a_temporary_copy_runs_its_own_code(made: Pipeline) -> None:
    """Not that of the working copy, whose package may be the installed one."""
    path = made.folder / "src/cxr/evaluation/metrics.py"
    text = path.read_text()
    path.write_text(text + "\nraise ImportError('another working copy was imported')\n")
    made.dvc("exp", "run", "--queue", "-n", "queued", "-S", CHEAP)
    path.write_text(text)
    assert "Failed" in made.run_queue(1)


def test_two_workers_of_a_queue(made: Pipeline) -> None:
    for name, indices in {"left": "[1]", "right": "[2]"}.items():
        made.dvc("exp", "run", "--queue", "-n", name, "-S", f"gradcam.indices={indices}")
    made.run_queue(2)
    holds(made)
    for name in ("left", "right"):
        (first, *_) = run_ids(made, name)
        holds(made, first)
    answer = cxr(made, "diff", "left", "right")
    assert [(c["name"], c["a"], c["b"]) for c in answer["parameters"]] == [
        ("gradcam.indices", [1], [2])
    ]


def test_a_fresh_clone_with_pull_and_sync(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    Pipeline(kept).git("clone", "-q", str(kept), str(folder))
    clone = Pipeline(folder)
    lost = cxr(clone, "audit", status=1)
    assert {f["mend"] for f in lost["findings"] if f["where"] == "record"} == {"dvc pull"}
    clone.dvc("pull")
    assert accusations(cxr(clone, "audit")) == [
        "MLflow's database is missing; it can be rebuilt from the records"
    ]
    done = cxr(clone, "sync")
    assert {run["how"] for run in done["runs"]} == {"rebuilt"}
    assert len(done["runs"]) == 14
    assert not any(run["lost"] for run in done["runs"])
    holds(clone)
    for run in done["runs"][:2]:  # the recorded id and the new one mean the same
        assert holds(clone, run["run_id"])["target"] == holds(clone, run["now"])["target"]
    assert cxr(clone, "sync") == {"runs": [], "refused": {}, "n_there": 14, "n_moved": 0}

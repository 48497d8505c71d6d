"""`cxr diff` says in one sentence why two results differ, with both values."""

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline import Pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def made(kept: Path, tmp_path: Path) -> Pipeline:
    return Pipeline(kept).copy(tmp_path / "p")


def diff(pipeline: Pipeline, *sides: str) -> dict[str, Any]:
    done = pipeline.run("cxr", "diff", *sides, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def names(changes: list[dict[str, Any]]) -> set[str]:
    return {change["name"] for change in changes}


def run_of(pipeline: Pipeline, experiment: str, name: str) -> str:
    from mlflow import MlflowClient

    store = MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")
    ids = [each.experiment_id for each in store.search_experiments()]
    shown = f"{name} ({experiment})"
    query = f"tags.`cxr.experiment` = '{experiment}' and attributes.run_name = '{shown}'"
    (run,) = store.search_runs(ids, query)
    return str(run.info.run_id)


def test_an_experiment_is_compared_with_a_revision_and_the_workspace(made: Pipeline) -> None:
    answer = diff(made, "HEAD", "fast")
    assert [(c["name"], c["a"], c["b"]) for c in answer["parameters"]] == [
        ("train.cnn.lr", 0.002, 0.01)
    ]
    assert (answer["data"], answer["code"], answer["environment"]) == ([], [], [])
    test = next(c for c in answer["results"] if c["name"] == "evaluate-cnn test/macro_auroc")
    assert test["a"] == made.json("reports/summary.json")["cnn"]["test_macro_auroc"]
    runs = {name.partition(" ")[0] for name in names(answer["results"])}
    assert not any(run.endswith(("-vit", "-squeezenet")) for run in runs)
    assert answer["sentence"] == (
        "The results differ because train.cnn.lr is 0.002 in HEAD and 0.01 in fast."
    )
    assert diff(made, "fast")["b"] == "workspace"


def test_two_runs_are_compared_from_data_to_results(made: Pipeline) -> None:
    ours, theirs = made.run_id("train-cnn"), run_of(made, "fast", "train-cnn")
    answer = diff(made, ours[:12], theirs)
    assert names(answer["parameters"]) == {"train.cnn.lr"}
    assert "best/val_macro_auroc" in names(answer["results"])
    lines = made.run("cxr", "diff", ours, theirs).stdout.splitlines()
    titles = [line.split(":")[0] for line in lines if not line.startswith(" ") and ": " in line]
    assert titles[:5] == ["data", "parameters", "code", "environment", "results"]
    assert lines[-1].startswith("The results differ because train.cnn.lr is 0.002")


def test_a_repeated_training_gives_the_same_results(made: Pipeline) -> None:
    made.dvc("repro", "--force", "--single-item", "train-vit")
    answer = diff(made, "HEAD", "workspace")
    assert answer["results"] == []
    assert answer["n_equal"] > 100
    assert answer["sentence"] == (
        "The results are the same, and so is everything that affects them."
    )


def test_changed_code_with_the_same_results(made: Pipeline) -> None:
    path = made.folder / "stages/evaluate.py"
    path.write_text(path.read_text() + "\n# one\n# two\n")
    made.git("commit", "-qam", "two lines")
    made.dvc("repro", "--single-item", "evaluate")
    answer = diff(made, "HEAD")  # HEAD still has the dvc.lock of the first run
    (change,) = answer["code"]
    assert (change["name"], change["detail"]) == ("stages/evaluate.py", "+3 -0 lines")
    assert answer["sentence"] == (
        "The results are the same, although the code of stages/evaluate.py differs."
    )


def test_changed_data_are_listed_with_files_and_image_counts(made: Pipeline) -> None:
    made.change(download__phantom__train=301)
    made.dvc("repro", "preprocess")
    answer = diff(made, "HEAD")
    data = {change["name"]: change for change in answer["data"]}
    assert (data["images in train"]["a"], data["images in train"]["b"]) == (300, 301)
    assert "data/raw/chest.npz" in data["data/raw"]["detail"]
    before = made.git("show", "HEAD:dvc.lock")
    assert data["data/raw"]["a"] in before
    assert data["data/raw"]["b"] in (made.folder / "dvc.lock").read_text()
    assert "download.phantom.train is 300 in HEAD and 301 in workspace" in answer["sentence"]


def test_another_version_of_a_package_is_listed(made: Pipeline) -> None:
    metadata = made.folder / "src/scipy-9.9.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: matplotlib\nVersion: 9.9\n")
    metadata.parent.rename(metadata.parent.with_name("matplotlib-9.9.dist-info"))
    made.dvc("repro", "--force", "--single-item", "preprocess")
    answer = diff(made, "HEAD")
    assert [(c["name"], c["b"]) for c in answer["environment"]] == [("matplotlib", "9.9")]
    assert answer["sentence"].startswith("The results are the same, and so is everything")


def test_a_run_is_compared_with_the_run_of_its_name_in_the_workspace(made: Pipeline) -> None:
    answer = diff(made, made.run_id("train-cnn"))
    assert answer["sentence"] == (
        "The results are the same, and so is everything that affects them."
    )
    assert answer["alone"] == []
    answer = diff(made, run_of(made, "fast", "train-cnn"))
    assert names(answer["parameters"]) == {"train.cnn.lr"}


def test_a_change_in_one_stage_names_the_stage(made: Pipeline) -> None:
    """Only one model is trained with another seed."""
    made.change(seed=1)
    made.dvc("repro", "--single-item", "train-vit")
    made.change(seed=0)
    made.dvc("repro", "--single-item", "evaluate")
    assert "RUNNING" not in made.run("cxr", "audit", "reports/metrics.json").stdout
    answer = diff(made, "HEAD")
    (seed,) = answer["parameters"]
    assert (seed["name"], seed["a"], seed["b"], seed["detail"]) == ("seed", 0, 1, "train-vit")
    assert "seed is 0 in HEAD and 1 in workspace for train-vit" in answer["sentence"]


def test_runs_of_different_kinds_are_compared_by_what_both_were_made_from(made: Pipeline) -> None:
    answer = diff(made, made.run_id("train-cnn"), made.run_id("train-vit"))
    assert answer["parameters"] == []
    assert "different kinds of runs, train-cnn and train-vit" in answer["sentence"]
    assert answer["alone"] == [
        f"train-cnn is only in {answer['a']}", f"train-vit is only in {answer['b']}",
    ]  # fmt: skip
    logs = made.json("records/evaluate.json")["runs"]
    run_ids = {log["name"]: log["run_id"] for log in logs}
    answer = diff(made, run_ids["evaluate-cnn"], run_ids["evaluate-vit"])
    assert "test/macro_auroc" in names(answer["results"])
    assert "different kinds of runs, evaluate-cnn and evaluate-vit" in answer["sentence"]

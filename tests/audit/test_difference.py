"""Why two results differ is said in one sentence, with both values of what differs."""

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
    query = f"tags.`cxr.experiment` = '{experiment}' and attributes.run_name = '{name}'"
    (run,) = store.search_runs(ids, query)
    return str(run.info.run_id)


def test_an_experiment_against_a_revision_and_the_workspace(made: Pipeline) -> None:
    answer = diff(made, "HEAD", "fast")
    assert [(c["name"], c["a"], c["b"]) for c in answer["parameters"]] == [
        ("train.cnn.lr", 0.002, 0.01)
    ]
    assert (answer["data"], answer["code"], answer["environment"]) == ([], [], [])
    test = next(c for c in answer["results"] if c["name"] == "evaluate-cnn test/macro_auroc")
    assert test["a"] == made.json("reports/summary.json")["cnn"]["test_macro_auroc"]
    assert not any("vit" in name or "squeezenet" in name for name in names(answer["results"]))
    assert answer["sentence"] == (
        "The numbers differ because this does: train.cnn.lr is 0.002 in HEAD and 0.01 in fast."
    )
    assert diff(made, "fast")["b"] == "workspace"


def test_two_runs_and_the_order_of_what_is_printed(made: Pipeline) -> None:
    ours, theirs = made.run_id("train-cnn"), run_of(made, "fast", "train-cnn")
    answer = diff(made, ours[:12], theirs)
    assert names(answer["parameters"]) == {"train.cnn.lr"}
    assert "best/val_macro_auroc" in names(answer["results"])
    lines = made.run("cxr", "diff", ours, theirs).stdout.splitlines()
    titles = [line.split(":")[0] for line in lines if not line.startswith(" ") and ": " in line]
    assert titles[:5] == ["data", "parameters", "code", "environment", "results"]
    assert lines[-1].startswith("The numbers differ because this does: train.cnn.lr is 0.002")


def test_the_same_twice(made: Pipeline) -> None:
    made.dvc("repro", "--force", "--single-item", "train-vit")
    answer = diff(made, "HEAD", "workspace")
    assert answer["results"] == []
    assert answer["n_equal"] > 100
    assert answer["sentence"] == (
        "Nothing that decides the numbers differs, and they are the same."
    )


def test_code_that_changes_no_number(made: Pipeline) -> None:
    path = made.folder / "stages/evaluate.py"
    path.write_text(path.read_text() + "\n# one\n# two\n")
    made.git("commit", "-qam", "two lines")
    made.dvc("repro", "--single-item", "evaluate")
    answer = diff(made, "HEAD")  # HEAD's dvc.lock is the one of before
    (change,) = answer["code"]
    assert (change["name"], change["detail"]) == ("stages/evaluate.py", "+3 -0 lines")
    assert answer["sentence"] == (
        "The numbers are the same, although this differs: the code of stages/evaluate.py."
    )


def test_other_data_says_which_files_and_how_many_images(made: Pipeline) -> None:
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


def test_another_package_is_found_in_the_records(made: Pipeline) -> None:
    about = made.folder / "src/scipy-9.9.dist-info/METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: matplotlib\nVersion: 9.9\n")
    about.parent.rename(about.parent.with_name("matplotlib-9.9.dist-info"))
    made.dvc("repro", "--force", "--single-item", "preprocess")
    answer = diff(made, "HEAD")
    assert [(c["name"], c["b"]) for c in answer["environment"]] == [("matplotlib", "9.9")]
    assert answer["sentence"].startswith("Nothing that decides the numbers differs")


def test_a_run_against_all_that_stands_here(made: Pipeline) -> None:
    """It is held against the run of its name, and against nothing else."""
    answer = diff(made, made.run_id("train-cnn"))
    assert answer["sentence"] == (
        "Nothing that decides the numbers differs, and they are the same."
    )
    assert answer["alone"] == []
    answer = diff(made, run_of(made, "fast", "train-cnn"))
    assert names(answer["parameters"]) == {"train.cnn.lr"}


def test_a_change_in_one_stage_alone_names_it(made: Pipeline) -> None:
    """One training with another seed, and the rest as before."""
    made.change(seed=1)
    made.dvc("repro", "--single-item", "train-vit")
    made.change(seed=0)
    made.dvc("repro", "--single-item", "evaluate")
    assert "RUNNING" not in made.run("cxr", "audit", "reports/metrics.json").stdout
    answer = diff(made, "HEAD")
    (seed,) = answer["parameters"]
    assert (seed["name"], seed["a"], seed["b"], seed["detail"]) == ("seed", 0, 1, "train-vit")
    assert "seed is 0 in HEAD and 1 in workspace for train-vit" in answer["sentence"]


def test_runs_of_different_things_say_so(made: Pipeline) -> None:
    answer = diff(made, made.run_id("train-cnn"), made.run_id("train-vit"))
    assert answer["parameters"] == []
    assert "different things, train-cnn and train-vit" in answer["sentence"]
    assert answer["alone"] == [
        f"train-cnn is only in {answer['a']}", f"train-vit is only in {answer['b']}",
    ]  # fmt: skip
    of_cnn, _, of_vit, *_ = (log["run_id"] for log in made.json("records/evaluate.json")["runs"])
    answer = diff(made, of_cnn, of_vit)
    assert "test/macro_auroc" in names(answer["results"])
    assert "different things, evaluate-cnn and evaluate-vit" in answer["sentence"]

"""Prepared views of MLflow's runs page, stored in an experiment's tags."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from cxr.tracking import database, view


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """A store with one experiment."""
    root = tmp_path_factory.mktemp("store")
    client = database.connect(f"sqlite:///{root / 'mlflow.db'}")
    client.create_experiment("phantom-28", artifact_location=str(root / "mlruns"))
    return client


def test_an_experiment_gets_a_view_of_models_and_one_of_learning_curves(
    client: MlflowClient,
) -> None:
    models, curves = view.prepare(client)
    assert models.experiment == curves.experiment == "phantom-28"
    assert "viewStateShareKey=models" in models.path
    assert "compareRunsMode=CHART" in curves.path
    tags = client.get_experiment_by_name("phantom-28").tags
    state = json.loads(tags["mlflow.sharedViewState.models"])
    assert state["orderByKey"] == "metrics.`val/macro_auroc`"  # never by test
    assert set(state["columnWidths"]) == set(state["selectedColumns"])


def columns_of_models(
    folder: Path, empty_store: Path, runs: list[tuple[str, dict[str, Any]]]
) -> list[str]:
    """The columns of the view of models in a store with these models and parameters."""
    shutil.copy2(empty_store, folder)
    client = database.connect(f"sqlite:///{folder / empty_store.name}")
    experiment = client.create_experiment("phantom-28", artifact_location=str(folder / "mlruns"))
    tags = {"cxr.stage": "evaluate"}
    client.create_run(experiment, tags=tags)  # the stage's own, which has no model
    for model, params in runs:
        run_id = client.create_run(experiment, tags={**tags, "cxr.model": model}).info.run_id
        for name, value in params.items():
            client.log_param(run_id, name, value)
    view.prepare(client)
    tags = client.get_experiment(experiment).tags
    state = json.loads(tags["mlflow.sharedViewState.models"])
    assert state["columnOrder"] == state["selectedColumns"]
    columns: list[str] = state["selectedColumns"]
    return columns


ABOUT = ["tags.`cxr.model`", "tags.`cxr.experiment`", "params.`seed`"]


def test_the_table_of_models_starts_with_what_tells_the_runs_of_one_model_apart(
    tmp_path: Path, empty_store: Path
) -> None:
    """At most three parameters, those with most values first."""
    runs: list[tuple[str, dict[str, Any]]] = [
        (
            "cnn",
            {
                "seed": n,  # differs most, and has its column already
                "dropout": n % 2,
                "epochs": n % 2,
                "lr": n,
                "width": n % 3,
                "threads": 1,
            },
        )
        for n in range(6)
    ]
    runs += [("vit", {"seed": n, "width": 64, "depth": 4}) for n in range(7)]
    columns = columns_of_models(tmp_path, empty_store, runs)
    assert columns[:7] == [
        *ABOUT, "params.`lr`", "params.`width`", "params.`dropout`", "metrics.`val/macro_auroc`",
    ]  # fmt: skip
    assert len([column for column in columns if column.startswith("params.")]) == 4


def test_a_parameter_that_differs_only_between_models_is_not_a_column(
    tmp_path: Path, empty_store: Path
) -> None:
    runs: list[tuple[str, dict[str, Any]]] = [
        ("cnn", {"seed": 0, "lr": 0.01, "width": 32}),
        ("squeezenet", {"seed": 0, "lr": 0.02, "weights": "none"}),
        ("vit", {"seed": 0, "lr": 0.03, "depth": 4}),
        ("vit", {"seed": 0, "lr": 0.03, "depth": 4}),
    ]
    columns = columns_of_models(tmp_path, empty_store, runs)
    assert columns[:4] == [*ABOUT, "metrics.`val/macro_auroc`"]
    assert [column for column in columns if column.startswith("params.")] == ["params.`seed`"]


def test_a_read_only_store_has_no_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow creates a folder named after part of the URI
    from cxr.tracking.store import Store

    file = tmp_path / "mlflow.db"
    database.connect(f"sqlite:///{file}").create_experiment("phantom-28")
    read_only = Store(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert read_only.views() == []

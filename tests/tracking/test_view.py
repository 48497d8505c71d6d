"""Prepared views of MLflow's runs page, stored in an experiment's tags."""

import json
from pathlib import Path

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


def test_a_read_only_store_has_no_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow creates a folder named after part of the URI
    from cxr.tracking.store import Store

    file = tmp_path / "mlflow.db"
    database.connect(f"sqlite:///{file}").create_experiment("phantom-28")
    read_only = Store(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert read_only.views() == []

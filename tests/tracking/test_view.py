"""What MLflow's page shows first: views that stand in an experiment's tags, and runs' colours."""

import colorsys
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cxr.tracking import database, view

MODELS = ("cnn", "squeezenet", "vit")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    """A store with an experiment of ours, one run of each model."""
    root = tmp_path_factory.mktemp("store")
    client = database.connect(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.create_experiment("phantom-28", artifact_location=str(root / "mlruns"))
    for model in MODELS:
        client.create_run(experiment, tags={"cxr.model": model})
    client.create_run(experiment, tags={"cxr.stage": "download"})
    return client


def hue(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return colorsys.rgb_to_hls(red, green, blue)[0]


def apart(a: float, b: float) -> float:
    return min(abs(a - b), 1 - abs(a - b))


def test_an_experiment_gets_a_view_of_its_models_and_one_of_their_curves(
    client: MlflowClient,
) -> None:
    models, curves = view.prepare(client)
    assert models.experiment == curves.experiment == "phantom-28"
    assert "viewStateShareKey=models" in models.place
    assert "compareRunsMode=CHART" in curves.place
    tags = client.get_experiment_by_name("phantom-28").tags
    state = json.loads(tags["mlflow.sharedViewState.models"])
    assert state["orderByKey"] == "metrics.`val/macro_auroc`"  # never by test
    assert set(state["columnWidths"]) == set(state["selectedColumns"])


def test_every_run_of_a_model_gets_a_colour_once(client: MlflowClient) -> None:
    view.prepare(client)
    found = client.search_runs([client.get_experiment_by_name("phantom-28").experiment_id])
    colours = {
        run.data.tags.get("cxr.model"): run.data.tags.get("mlflow.runColor") for run in found
    }
    assert colours.pop(None) is None
    assert set(colours) == set(MODELS)
    first = next(run for run in found if run.data.tags.get("cxr.model") == "cnn")
    client.set_tag(first.info.run_id, "mlflow.runColor", "#123456")  # by a person
    view.prepare(client)
    assert client.get_run(first.info.run_id).data.tags["mlflow.runColor"] == "#123456"


def test_models_never_share_a_hue_and_runs_of_one_differ() -> None:
    runs = [f"{i:032x}" for i in range(200)]
    hues = {model: [hue(view.colour_of(model, run)) for run in runs] for model in MODELS}
    for a, b in (("cnn", "squeezenet"), ("cnn", "vit"), ("squeezenet", "vit")):
        assert min(apart(x, y) for x in hues[a] for y in hues[b]) > 0.1
    assert len({view.colour_of("cnn", run) for run in runs}) > 190


def test_a_store_that_can_not_be_written_has_no_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow takes part of the address for a folder
    from cxr.tracking.store import Store

    file = tmp_path / "mlflow.db"
    database.connect(f"sqlite:///{file}").create_experiment("phantom-28")
    read_only = Store(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert read_only.views() == []

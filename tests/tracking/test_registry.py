"""Models in MLflow's registry: versions with their files, and the choice of the champion."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from PIL import Image
from pipeline import Pipeline

from cxr.data import phantom
from cxr.evaluation.description import BASELINES
from cxr.inference.predict import load
from cxr.lineage.run_log import Registration, RunLog
from cxr.tracking.errors import TrackingError
from cxr.tracking.registry import CHAMPION
from cxr.tracking.store import Store, fetch_model
from cxr.tracking.tracker import Tracker

NAME = "cxr-phantom-28"
MODEL = json.dumps({"labels": ["mass"]})


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def champion(folder: Path) -> ModelVersion:
    return client(folder).get_model_version_by_alias(NAME, CHAMPION)


def versions(folder: Path) -> dict[str, ModelVersion]:
    """Model versions by the id of the run that logged them."""
    found = client(folder).search_model_versions(f"name = '{NAME}'")
    assert len({each.run_id for each in found}) == len(found)
    return {each.run_id: each for each in found}


def recorded_versions(folder: Path) -> dict[str, ModelVersion]:
    """Model versions by the id, in its record, of the shared run that logged them."""
    return {
        client(folder).get_run(run_id).data.tags["cxr.original_run_id"]: version
        for run_id, version in versions(folder).items()
    }


def evaluation(folder: Path, model: str) -> str:
    """The id, in the record, of the run to which `evaluate` logged a model."""
    record = json.loads((folder / "records/evaluate.json").read_text())
    (run_id,) = (log["run_id"] for log in record["runs"] if log["model"] == model)
    return str(run_id)


class FakeProject:
    """A folder with its own store, to which models of one small file are logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "models/cnn").mkdir(parents=True)
        (folder / "models/cnn/model.json").write_text(MODEL)
        self.tracker = Tracker(folder, "phantom-28")

    def evaluate(
        self, score: float, data: str = "a", files: tuple[str, ...] = ("models/cnn/model.json",)
    ) -> str:
        """Log the evaluation of a model; returns the id of the run."""
        log = RunLog("evaluate-cnn", "cnn", registration=Registration([*files], score, data))
        self.tracker.start(log)
        self.finish(log)
        return log.run_id

    def finish(
        self, log: RunLog, experiment: str = "workspace", end_time: int | None = None
    ) -> None:
        def locate(path: str) -> Path | None:
            file = self.folder / path
            return file if file.exists() else None

        self.tracker.finish(log, {"cxr.experiment": experiment}, locate, end_time=end_time)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> FakeProject:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy2(empty_store, tmp_path)
    return FakeProject(tmp_path)


def test_the_champion_is_the_best_on_validation_of_the_data_evaluated_last(
    registry: FakeProject,
) -> None:
    first = registry.evaluate(0.7)
    assert champion(registry.folder).run_id == first
    best = registry.evaluate(0.9)
    assert champion(registry.folder).run_id == best
    registry.evaluate(0.8)
    assert champion(registry.folder).run_id == best
    other = registry.evaluate(0.1, "b")
    assert champion(registry.folder).run_id == other
    registry.evaluate(0.2)
    assert champion(registry.folder).run_id == best
    tags = versions(registry.folder)[best].tags
    assert int(tags.pop("evaluated")) == pytest.approx(time.time() * 1000, abs=60_000)
    assert tags == {"val_macro_auroc": "0.9", "cxr.md5.data/processed": "a"}


def test_a_tie_makes_the_last_evaluated_model_the_champion(registry: FakeProject) -> None:
    registry.evaluate(0.9)
    latest = registry.evaluate(0.9)
    assert champion(registry.folder).run_id == latest


def test_a_model_with_a_deleted_run_cannot_be_the_champion(registry: FakeProject) -> None:
    best, next_best = registry.evaluate(0.9), registry.evaluate(0.8)
    client(registry.folder).delete_run(best)
    registry.evaluate(0.1)
    assert champion(registry.folder).run_id == next_best


def test_an_old_run_that_is_logged_again_does_not_become_the_champion(
    registry: FakeProject,
) -> None:
    """As `cxr sync` logs a run that started long ago."""
    latest = registry.evaluate(0.1, "b")
    model = Registration(["models/cnn/model.json"], 0.9, "a")
    log = RunLog("evaluate-cnn", "cnn", run_id="0" * 32, registration=model)
    log.run_id = registry.tracker.rebuild(log, start_time=1_000_000)
    registry.finish(log, end_time=1_000_001)
    assert champion(registry.folder).run_id == latest


def test_evaluating_earlier_data_again_makes_its_model_the_champion(registry: FakeProject) -> None:
    """The model's run is shared by both evaluations, so its start is before that of `b`."""
    model = Registration(["models/cnn/model.json"], 0.9, "a")
    log = RunLog("evaluate-cnn", "cnn", "1" * 32, registration=model, shared=True)
    registry.finish(log, "one")
    first = champion(registry.folder).run_id
    other = registry.evaluate(0.1, "b")
    assert champion(registry.folder).run_id == other
    registry.finish(log, "two")
    assert champion(registry.folder).run_id == first
    assert client(registry.folder).get_run(first).data.tags["cxr.experiment"] == "one, two"


def test_versions_that_were_registered_by_hand_are_ignored(registry: FakeProject) -> None:
    """Without a score, with a score that is not a number, and under another name."""
    store = client(registry.folder)
    first = registry.evaluate(0.7)
    source = versions(registry.folder)[first].source
    store.create_model_version(NAME, source, first)
    store.create_model_version(NAME, source, first, tags={"val_macro_auroc": "good"})
    store.create_registered_model("mine")
    log = RunLog(
        "evaluate-cnn", "cnn", registration=Registration(["models/cnn/model.json"], 0.8, "a")
    )
    registry.tracker.start(log)
    store.create_model_version("mine", source, log.run_id)
    registry.finish(log)
    assert champion(registry.folder).run_id == log.run_id
    assert len(store.search_model_versions("name = 'mine'")) == 1


def test_logging_a_model_again_restores_lost_parts_without_duplicates(
    registry: FakeProject,
) -> None:
    model = Registration(["models/cnn/model.json"], 0.7, "a")
    log = RunLog("evaluate-cnn", "cnn", registration=model)
    registry.tracker.start(log)
    registry.finish(log)
    store = Store.open(registry.folder)
    assert store is not None

    def is_registered() -> bool:
        stored = store.find(log.run_id)
        assert stored is not None
        return store.registers(model, stored)

    assert is_registered()
    (file,) = (registry.folder / "mlruns").rglob("model.json")
    file.unlink()
    assert not is_registered()
    registry.finish(log)
    assert is_registered() and file.read_text() == MODEL
    mlmodel = file.parents[2] / "MLmodel"
    content = mlmodel.read_bytes()
    mlmodel.unlink()  # as for models registered by an old version
    assert not is_registered()
    registry.finish(log)
    assert is_registered() and mlmodel.read_bytes() == content
    client(registry.folder).delete_registered_model_alias(NAME, CHAMPION)
    assert not is_registered()
    registry.finish(log)
    assert is_registered()
    assert len(versions(registry.folder)) == 1


def test_a_failing_registry_leaves_the_run_finished(
    registry: FakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("no registry here")

    monkeypatch.setattr(MlflowClient, "create_model_version", refuse)
    with pytest.raises(TrackingError, match="no registry here"):
        registry.evaluate(0.7)
    (run,) = client(registry.folder).search_runs(["1"])
    assert run.info.status == "FINISHED"


def test_any_name_of_data_gives_a_valid_model_name(tmp_path: Path) -> None:
    registry = FakeProject(tmp_path)
    registry.tracker = Tracker(tmp_path, "it's a:b/ü")
    registry.evaluate(0.7)
    assert [each.name for each in client(tmp_path).search_registered_models()] == ["cxr-it_s_a_b__"]


def test_a_model_with_missing_files_is_not_registered(registry: FakeProject) -> None:
    registry.evaluate(0.7, files=("models/cnn/model.json", "decisions/cnn.json"))
    assert versions(registry.folder) == {}


def test_a_registered_model_is_fetched_by_its_uri(registry: FakeProject, tmp_path: Path) -> None:
    run_id = registry.evaluate(0.7)
    addresses = (f"models:/{NAME}@champion", f"models:/{NAME}/1", f"runs:/{run_id}/model")
    for address in (*addresses, f"runs:/{run_id}"):
        folder = fetch_model(address, registry.folder)
        assert (folder / "models/cnn/model.json").read_text() == MODEL
    other = FakeProject(tmp_path / "other")  # fetching does not change the default store
    other.evaluate(0.5)
    assert len(versions(other.folder)) == len(versions(registry.folder)) == 1


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (f"models:/{NAME}@best", "can't be searched for"),
        (f"models:/{NAME}/7", "can't be searched for"),
        ("models:/other/1", "can't be searched for"),
        ("runs:/none/model", "can't be searched for"),
        ("models:/", "write models:/NAME@ALIAS"),
        ("models:/a/b/c", "write models:/NAME@ALIAS"),
    ],
)
def test_an_unknown_model_uri_is_reported_in_one_line(
    registry: FakeProject, address: str, error: str
) -> None:
    registry.evaluate(0.7)
    with pytest.raises(TrackingError, match=error) as refused:
        load(address, registry.folder)
    assert "\n" not in str(refused.value)
    assert address in str(refused.value)
    assert address in ("models:/", "models:/a/b/c") or "`cxr sync`" in str(refused.value)


def test_fetching_a_model_does_not_create_a_missing_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match="has no MLflow store"):
        fetch_model(f"models:/{NAME}@champion", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def made(kept: Path, tmp_path: Path) -> Pipeline:
    copy = Pipeline(kept).copy(tmp_path / "p")
    assert copy.run("cxr", "sync").returncode == 0
    return copy


def predicted_labels(made: Pipeline, model: str) -> Any:
    path = made.folder / "chest.png"
    Image.fromarray(phantom.render(0, "test", 0, 1, 28).images[0]).save(path)
    done = made.run("cxr", "predict", str(path), "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["images"][0]["labels"]


@pytest.mark.slow
def test_every_evaluated_model_is_registered_with_its_operating_point(made: Pipeline) -> None:
    runs = made.json("records/evaluate.json")["runs"]
    registered = recorded_versions(made.folder)
    assert len(registered) == 4  # three of the working copy; its experiment changes one of them
    scores = {}
    for run in runs:
        name = run["model"]
        if run["registration"] is None:
            assert name in (None, *BASELINES)  # None: the stage's own run
            continue
        version = registered[run["run_id"]]
        folder = Path(version.source.removeprefix("file://"))
        for path in (f"models/{name}/weights.safetensors", f"decisions/{name}.json"):
            assert (folder / path).read_bytes() == (made.folder / path).read_bytes()
        scores[name] = made.json("reports/metrics.json")["models"][name]["val"]["macro_auroc"]
        assert version.tags["val_macro_auroc"] == str(scores[name])
    assert len(scores) == 3
    best = max(registered.values(), key=lambda each: float(each.tags["val_macro_auroc"]))
    assert champion(made.folder).tags == best.tags


@pytest.mark.slow
def test_a_model_predicts_the_same_by_its_uri_as_by_its_name(made: Pipeline) -> None:
    store = client(made.folder)
    version = recorded_versions(made.folder)[evaluation(made.folder, "cnn")].version
    store.set_registered_model_alias(NAME, "chosen", version)
    assert predicted_labels(made, f"models:/{NAME}@chosen") == predicted_labels(made, "cnn")
    recorded = evaluation(made.folder, "vit")
    by_name = predicted_labels(made, "vit")
    # By the id in the record as well as by MLflow's own.
    for run_id in (recorded, recorded_versions(made.folder)[recorded].run_id):
        assert predicted_labels(made, f"runs:/{run_id}/model") == by_name


@pytest.mark.slow
def test_sync_restores_a_lost_registry(made: Pipeline) -> None:
    before = {each.tags["val_macro_auroc"] for each in versions(made.folder).values()}
    champion_tags = champion(made.folder).tags
    other = made.copy(made.folder.with_name("lost"))
    (other.folder / "mlflow.db").unlink()
    assert other.run("cxr", "sync").returncode == 0
    assert {each.tags["val_macro_auroc"] for each in versions(other.folder).values()} == before
    assert champion(other.folder).tags == champion_tags
    assert "completed" not in other.run("cxr", "sync").stdout
    assert predicted_labels(other, f"models:/{NAME}@champion") == predicted_labels(
        made, f"models:/{NAME}@champion"
    )
    assert other.run("cxr", "audit").returncode == 0


@pytest.mark.slow
def test_the_audit_finds_a_changed_registered_model(made: Pipeline) -> None:
    run_id = recorded_versions(made.folder)[evaluation(made.folder, "cnn")].run_id
    weights = next((made.folder / f"mlruns/phantom-28/{run_id}").rglob("weights.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = made.run("cxr", "audit")
    assert done.returncode == 1
    assert "weights.safetensors) differs from the stage's output" in done.stdout
    client(made.folder).delete_model_version(NAME, versions(made.folder)[run_id].version)
    assert "MLflow lacks the registered model" in made.run("cxr", "audit").stdout

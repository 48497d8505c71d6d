"""Models in MLflow's registry: weights and decision together, and which is the champion."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from PIL import Image
from pipeline import Pipeline

from cxr.data import phantom
from cxr.inference.predict import load
from cxr.lineage.run_log import Registration, RunLog
from cxr.tracking.errors import TrackingError
from cxr.tracking.registry import CHAMPION
from cxr.tracking.store import Store, fetch_model
from cxr.tracking.tracker import Tracker

NAME = "cxr-phantom-28"


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def champion(folder: Path) -> ModelVersion:
    return client(folder).get_model_version_by_alias(NAME, CHAMPION)


def versions(folder: Path) -> dict[str, ModelVersion]:
    """By the run that made each."""
    found = client(folder).search_model_versions(f"name = '{NAME}'")
    assert len({each.run_id for each in found}) == len(found)
    return {each.run_id: each for each in found}


class Registry:
    """A store of its own, into which models of one small file are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "models/cnn").mkdir(parents=True)
        (folder / "models/cnn/model.json").write_text("{}")
        self.tracker = Tracker(folder, "phantom-28")

    def tell(
        self, score: float, data: str = "a", files: tuple[str, ...] = ("models/cnn/model.json",)
    ) -> str:
        """Evaluate a model; the id of the run."""
        log = RunLog("evaluate-cnn", "cnn", registration=Registration([*files], score, data))
        self.tracker.start(log)
        self.finish(log)
        return log.run_id

    def finish(self, log: RunLog) -> None:
        def file(path: str) -> Path | None:
            place = self.folder / path
            return place if place.exists() else None

        self.tracker.finish(log, {}, file)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Registry:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy2(empty_store, tmp_path)
    return Registry(tmp_path)


def test_the_champion_is_the_best_on_validation_of_the_data_evaluated_last(
    registry: Registry,
) -> None:
    first = registry.tell(0.7)
    assert champion(registry.folder).run_id == first
    best = registry.tell(0.9)
    assert champion(registry.folder).run_id == best
    registry.tell(0.8)
    assert champion(registry.folder).run_id == best
    other = registry.tell(0.1, "b")
    assert champion(registry.folder).run_id == other
    registry.tell(0.2)
    assert champion(registry.folder).run_id == best
    assert versions(registry.folder)[best].tags == {
        "val_macro_auroc": "0.9", "cxr.md5.data/processed": "a",
    }  # fmt: skip


def test_of_equally_good_models_the_latest_decision_counts(registry: Registry) -> None:
    registry.tell(0.9)
    latest = registry.tell(0.9)
    assert champion(registry.folder).run_id == latest


def test_a_model_whose_run_is_gone_is_no_champion(registry: Registry) -> None:
    best, next_best = registry.tell(0.9), registry.tell(0.8)
    client(registry.folder).delete_run(best)
    registry.tell(0.1)
    assert champion(registry.folder).run_id == next_best


def test_old_data_that_are_told_again_do_not_dethrone(registry: Registry) -> None:
    """As `cxr sync` tells a run that started long ago."""
    now = registry.tell(0.1, "b")
    model = Registration(["models/cnn/model.json"], 0.9, "a")
    log = RunLog("evaluate-cnn", "cnn", run_id="0" * 32, registration=model)
    log.run_id = registry.tracker.rebuild(log, at=1_000_000)
    registry.finish(log)
    assert champion(registry.folder).run_id == now


def test_versions_that_a_person_registered_are_let_be(registry: Registry) -> None:
    """Without a score, with one that is no number, and under another name."""
    mine = client(registry.folder)
    first = registry.tell(0.7)
    source = versions(registry.folder)[first].source
    mine.create_model_version(NAME, source, first)
    mine.create_model_version(NAME, source, first, tags={"val_macro_auroc": "good"})
    mine.create_registered_model("mine")
    log = RunLog(
        "evaluate-cnn", "cnn", registration=Registration(["models/cnn/model.json"], 0.8, "a")
    )
    registry.tracker.start(log)
    mine.create_model_version("mine", source, log.run_id)
    registry.finish(log)
    assert champion(registry.folder).run_id == log.run_id
    assert len(mine.search_model_versions("name = 'mine'")) == 1


def test_telling_a_model_again_brings_back_what_is_lost_and_doubles_nothing(
    registry: Registry,
) -> None:
    model = Registration(["models/cnn/model.json"], 0.7, "a")
    log = RunLog("evaluate-cnn", "cnn", registration=model)
    registry.tracker.start(log)
    registry.finish(log)
    store = Store.open(registry.folder)
    assert store is not None

    def there() -> bool:
        stored = store.find(log.run_id)
        assert stored is not None
        return store.registers(model, stored)

    assert there()
    (file,) = (registry.folder / "mlruns").rglob("model.json")
    file.unlink()
    assert not there()
    registry.finish(log)
    assert there() and file.read_text() == "{}"
    mlmodel = file.parents[2] / "MLmodel"
    content = mlmodel.read_bytes()
    mlmodel.unlink()  # as of a model that was registered before MLflow could load one
    assert not there()
    registry.finish(log)
    assert there() and mlmodel.read_bytes() == content
    client(registry.folder).delete_registered_model_alias(NAME, CHAMPION)
    assert not there()
    registry.finish(log)
    assert there()
    assert len(versions(registry.folder)) == 1


def test_a_registry_that_refuses_leaves_the_run_finished(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("no registry here")

    monkeypatch.setattr(MlflowClient, "create_model_version", refuse)
    with pytest.raises(TrackingError, match="no registry here"):
        registry.tell(0.7)
    (run,) = client(registry.folder).search_runs(["1"])
    assert run.info.status == "FINISHED"


def test_any_name_of_data_makes_a_name_of_a_model(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.tracker = Tracker(tmp_path, "it's a:b/ü")
    registry.tell(0.7)
    assert [each.name for each in client(tmp_path).search_registered_models()] == ["cxr-it_s_a_b__"]


def test_a_model_whose_files_are_gone_is_not_registered(registry: Registry) -> None:
    registry.tell(0.7, files=("models/cnn/model.json", "decisions/cnn.json"))
    assert versions(registry.folder) == {}


def test_a_registered_model_is_found_by_its_address(registry: Registry, tmp_path: Path) -> None:
    run_id = registry.tell(0.7)
    addresses = (f"models:/{NAME}@champion", f"models:/{NAME}/1", f"runs:/{run_id}/model")
    for address in (*addresses, f"runs:/{run_id}"):
        folder = fetch_model(address, registry.folder)
        assert (folder / "models/cnn/model.json").read_text() == "{}"
    other = Registry(tmp_path / "other")  # what was fetched from one store binds no other
    other.tell(0.5)
    assert len(versions(other.folder)) == len(versions(registry.folder)) == 1


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"models:/{NAME}@best", "can't be searched for"),
        (f"models:/{NAME}/7", "can't be searched for"),
        ("models:/other/1", "can't be searched for"),
        ("runs:/none/model", "can't be searched for"),
        ("models:/", "write models:/NAME@ALIAS"),
        ("models:/a/b/c", "write models:/NAME@ALIAS"),
    ],
)
def test_an_address_that_leads_nowhere_is_one_line(
    registry: Registry, address: str, words: str
) -> None:
    registry.tell(0.7)
    with pytest.raises(TrackingError, match=words) as refused:
        load(address, registry.folder)
    assert "\n" not in str(refused.value)
    assert address in str(refused.value)
    assert address in ("models:/", "models:/a/b/c") or "`cxr sync`" in str(refused.value)


def test_where_there_is_no_store_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match="has no MLflow store"):
        fetch_model(f"models:/{NAME}@champion", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def made(kept: Path, tmp_path: Path) -> Pipeline:
    made = Pipeline(kept).copy(tmp_path / "p")
    assert made.run("cxr", "sync").returncode == 0
    return made


def said_of_a_chest(made: Pipeline, model: str) -> Any:
    path = made.folder / "chest.png"
    Image.fromarray(phantom.render(0, "test", 0, 1, 28).images[0]).save(path)
    done = made.run("cxr", "predict", str(path), "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["images"][0]["labels"]


@pytest.mark.slow
def test_every_evaluated_model_is_registered_with_its_decision(made: Pipeline) -> None:
    runs = made.json("records/evaluate.json")["runs"]
    found = versions(made.folder)
    assert len(found) == 6  # three of the working copy, three of its experiment
    scores = {}
    for run in runs:
        name = run["model"]
        if run["registration"] is None:
            assert name in ("all-negative", "prevalence")
            continue
        version = found[run["run_id"]]
        folder = Path(version.source.removeprefix("file://"))
        for path in (f"models/{name}/weights.safetensors", f"decisions/{name}.json"):
            assert (folder / path).read_bytes() == (made.folder / path).read_bytes()
        scores[name] = made.json("reports/metrics.json")["models"][name]["val"]["macro_auroc"]
        assert version.tags["val_macro_auroc"] == str(scores[name])
    assert len(scores) == 3
    best = max(found.values(), key=lambda each: float(each.tags["val_macro_auroc"]))
    assert champion(made.folder).tags == best.tags


@pytest.mark.slow
def test_a_model_by_its_address_says_what_it_says_by_its_name(made: Pipeline) -> None:
    store = client(made.folder)
    mine = next(run for run in made.json("records/evaluate.json")["runs"] if run["model"] == "cnn")
    version = versions(made.folder)[mine["run_id"]].version
    store.set_registered_model_alias(NAME, "chosen", version)
    assert said_of_a_chest(made, f"models:/{NAME}@chosen") == said_of_a_chest(made, "cnn")
    mine = next(
        run
        for run in made.json("records/evaluate.json")["runs"]
        if run["model"] == "vit"
    )  # fmt: skip
    assert said_of_a_chest(made, f"runs:/{mine['run_id']}/model") == said_of_a_chest(made, "vit")


@pytest.mark.slow
def test_a_lost_registry_comes_back(made: Pipeline) -> None:
    before = {each.tags["val_macro_auroc"] for each in versions(made.folder).values()}
    crowned = champion(made.folder).tags
    other = made.copy(made.folder.with_name("lost"))
    (other.folder / "mlflow.db").unlink()
    assert other.run("cxr", "sync").returncode == 0
    assert {each.tags["val_macro_auroc"] for each in versions(other.folder).values()} == before
    assert champion(other.folder).tags == crowned
    assert "completed" not in other.run("cxr", "sync").stdout
    assert said_of_a_chest(other, f"models:/{NAME}@champion") == said_of_a_chest(
        made, f"models:/{NAME}@champion"
    )
    assert other.run("cxr", "audit").returncode == 0


@pytest.mark.slow
def test_an_altered_registered_model_is_accused(made: Pipeline) -> None:
    run_id = made.json("records/evaluate.json")["runs"][0]["run_id"]
    weights = next((made.folder / f"mlruns/phantom-28/{run_id}").rglob("weights.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = made.run("cxr", "audit")
    assert done.returncode == 1
    assert "weights.safetensors) differs from the stage's output" in done.stdout
    client(made.folder).delete_model_version(NAME, versions(made.folder)[run_id].version)
    assert "MLflow lacks the registered model" in made.run("cxr", "audit").stdout

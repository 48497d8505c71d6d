"""The whole pipeline on labels of its own, a third of them unknown, and a companion table."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.models import Model
from PIL import Image
from pipeline import TINY, Pipeline, create

from cxr.data import phantom
from cxr.data.splits import SPLITS

pytestmark = pytest.mark.slow

COUNTS = {split: TINY[f"download.phantom.{split}"] for split in SPLITS}

WRITTEN = ("Öd/ém [x]", "Pleural Effusion")  # the third label comes from the companion table
NAMES = ("effusion", "Öd/ém [x]", "costs $1 or $2 <b>")
FILES = ("effusion", "Öd_ém_x_", "costs_1_or_2_b_")
COLUMNS = (3, 2, 0)  # of the phantom's labels: those of WRITTEN and of the table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("labels")
    rng, arrays = np.random.default_rng(0), {"label_names": np.array(WRITTEN)}
    rows: list[tuple[object, ...]] = []
    for split in SPLITS:
        batch = phantom.render(0, split, 0, COUNTS[split], 28)
        labels = batch.labels[:, COLUMNS].astype(np.int8)
        labels[rng.random(labels.shape) < 0.3] = -1
        ids = [f"{split}-{i}" for i in range(len(labels))]
        arrays |= {f"{split}_images": batch.images, f"{split}_labels": labels[:, :2]}
        arrays[f"{split}_ids"] = np.array(ids)
        columns = (ids, batch.patients, batch.attributes[:, 0], batch.attributes[:, 1])
        rows += list(zip(*columns, labels[:, 2].tolist(), strict=True))
    np.savez(folder / "mine.npz", **arrays)
    with gzip.open(folder / "table.csv.gz", "wt") as file:
        csv.writer(file, delimiter=";").writerows([["scan", "case", "sex", "age", NAMES[2]], *rows])
    source = {
        "download.source": "file",
        "download.path": str(folder / "mine.npz"),
        "download.companion.path": "../table.csv.gz",
        "download.companion.id": "scan",
        "download.companion.patient": "case",
        "download.companion.attributes": {"sex": "sex", "age": "age"},
        "download.companion.labels": [NAMES[2]],
    }
    pipeline = create(folder / "p", TINY | source)
    pipeline.repro()
    return pipeline


def test_models_and_metrics_have_the_labels_of_the_data(made: Pipeline) -> None:
    labels = np.load(made.folder / "data/processed/test_labels.npy")
    for name in ("cnn", "squeezenet", "vit"):
        assert tuple(made.json(f"models/{name}/model.json")["labels"]) == NAMES
        assert np.load(made.folder / f"predictions/{name}.npz")["test_logits"].shape == (150, 3)
        found = made.json("reports/metrics.json")["models"][name]["test"]
        assert tuple(found["labels"]) == NAMES
        known = [each["n"] for each in found["labels"].values()]
        assert known == (labels >= 0).sum(axis=0).tolist() and max(known) < 150
        assert found["n_known"] == sum(known)


def test_intervals_are_over_the_patients_of_the_table(made: Pipeline) -> None:
    patients = {split: phantom.render(0, split, 0, n, 28).patients for split, n in COUNTS.items()}
    report = made.json("reports/data.json")
    for split in ("val", "test"):
        n_patients = len(set(patients[split].tolist()))
        found = made.json("reports/metrics.json")["models"]["cnn"][split]["intervals"]
        assert (found["unit"], found["n_units"]) == ("patient", n_patients)
        assert report["splits"][split]["patients"] == n_patients
    assert report["companion"]["rows_without_image"] == 0
    assert list(report["splits"]["test"]["attributes"]) == ["sex", "age"]


def test_the_audit_notices_a_changed_table(made: Pipeline) -> None:
    table = made.folder.parent / "table.csv.gz"
    content = table.read_bytes()
    done = made.run("cxr", "audit", "data/raw")
    assert "table.csv.gz, md5" in done.stdout and done.returncode == 0
    table.write_bytes(gzip.compress(gzip.decompress(content).replace(b";F;", b";M;")))
    try:
        done = made.run("cxr", "audit", "data/raw")
        assert done.returncode == 1
        assert "table.csv.gz has changed since this result was made" in done.stdout
    finally:
        table.write_bytes(content)


def test_maps_and_mlflow_have_names_that_are_valid_there(made: Pipeline) -> None:
    for name in ("cnn", "squeezenet", "vit"):
        examples = {p.stem for p in (made.folder / f"reports/gradcam/{name}/labels").iterdir()}
        assert examples <= set(FILES) and examples
    store = MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    (run,) = store.search_runs(
        [store.get_experiment_by_name("mine").experiment_id],
        "tags.`cxr.stage` = 'evaluate' AND tags.`cxr.model` = 'cnn'",
    )
    logged = {key for key in run.data.metrics if key.startswith("test_auroc/")}
    assert logged == {f"test_auroc/{file}" for file in FILES}
    version = store.get_model_version_by_alias("cxr-mine", "champion")
    folder = version.source.removeprefix("file://")
    outputs = Model.load(folder).signature.outputs.input_names()
    assert tuple(outputs) == (*NAMES, "assumed", "warnings")


def test_an_image_file_is_predicted_by_name(made: Pipeline, tmp_path: Path) -> None:
    image = np.load(made.folder / "data/processed/test_images.npy")[0]
    Image.fromarray(image).save(tmp_path / "film.png")
    done = made.run("cxr", "predict", str(tmp_path / "film.png"), "--model", "cnn", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["images"]
    assert tuple(found["labels"]) == NAMES


def test_the_audit_passes_and_the_report_shows_every_label(made: Pipeline) -> None:
    done = made.run("cxr", "audit")
    assert done.returncode == 0, done.stdout
    done = made.run("cxr", "report")
    assert done.returncode == 0, done.stderr
    page = (made.folder / "reports/index.html").read_text()
    for name in ("effusion", "Öd/ém [x]", "costs $1 or $2 &lt;b&gt;"):
        assert f'<th scope="row">{name}</th>' in page
    assert "known" in page and "costs $1 or $2 <b>" not in page
    assert "Published results" not in page  # they have ChestMNIST's labels

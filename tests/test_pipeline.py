"""The whole pipeline: what `dvc repro` writes, and which changes re-run which stages."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from pipeline import Pipeline, create
from sklearn.metrics import roc_auc_score

from cxr import hashing
from cxr.data import splits
from cxr.data.ood import OodReference
from cxr.evaluation import decisions
from cxr.evaluation.description import BASELINES
from cxr.labels import CHESTMNIST
from cxr.lineage.facts import RESULT_AFFECTING
from cxr.params import flatten

pytestmark = pytest.mark.slow

MODELS = ("cnn", "squeezenet", "vit")
STAGES = {
    "download", "preprocess", "features", "train-cnn", "train-squeezenet", "train-vit",
    "evaluate", "maps-cnn", "maps-squeezenet", "maps-vit", "gradcam",
}  # fmt: skip
REPRODUCIBLE_OUTPUTS = ("data", "models", "predictions", "decisions", "attributions")


@pytest.fixture(scope="module")
def pipeline(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pipeline that has run once and is synced, in a folder with umlaut and space."""
    pipeline = Pipeline(once).copy(tmp_path_factory.mktemp("pipeline") / "röntgen bilder")
    assert pipeline.run("cxr", "sync").returncode == 0
    return pipeline


def client(pipeline: Pipeline) -> MlflowClient:
    return MlflowClient(f"sqlite:///{pipeline.folder / 'mlflow.db'}")


def runs(pipeline: Pipeline) -> dict[str, object]:
    store = client(pipeline)
    experiment = store.get_experiment_by_name("phantom-28")
    return {run.info.run_name: run for run in store.search_runs([experiment.experiment_id])}


def digests(pipeline: Pipeline) -> dict[str, str]:
    return {path: hashing.digest(pipeline.folder / path).md5 for path in REPRODUCIBLE_OUTPUTS}


def test_a_second_repro_runs_no_stage(pipeline: Pipeline) -> None:
    assert pipeline.repro() == []


def test_scratch_keeps_only_the_last_stages_attempt(pipeline: Pipeline) -> None:
    (last,) = [path for path in (pipeline.folder / ".scratch").iterdir() if path.is_dir()]
    assert json.loads((last / "attempt.json").read_text())["stage"] == "gradcam"
    assert {path.name for path in last.iterdir()} == {"attempt.json", "log.txt", "outputs"}


def test_the_only_new_file_for_git_is_dvc_lock(pipeline: Pipeline) -> None:
    assert pipeline.run("git", "status", "--porcelain").stdout.split() == ["??", "dvc.lock"]


def test_metrics_equal_those_that_sklearn_computes_from_the_predictions(pipeline: Pipeline) -> None:
    labels = np.load(pipeline.folder / "data/processed/test_labels.npy")
    metrics = pipeline.json("reports/metrics.json")
    assert list(metrics["models"]) == [*MODELS, *BASELINES]
    for model in MODELS:
        logits = np.load(pipeline.folder / f"predictions/{model}.npz")["test_logits"]
        defined = [i for i in range(14) if 0 < labels[:, i].sum() < len(labels)]
        aurocs = [roc_auc_score(labels[:, i], logits[:, i]) for i in defined]
        test = metrics["models"][model]["test"]
        assert test["macro_auroc"] == pytest.approx(np.mean(aurocs), abs=1e-12)
        assert test["n_labels"] == len(defined)
        undefined = {
            entry["label"] for entry in test["undefined"] if "auroc" in entry["what"].split(", ")
        }
        assert undefined == {CHESTMNIST[i] for i in range(14) if i not in defined}
        probs = decisions.read(pipeline.folder / f"decisions/{model}.json").calibration.probs(
            logits
        )
        accuracy = ((probs >= 0.5) == labels).mean()
        assert test["accuracy"] == pytest.approx(accuracy)
    assert metrics["models"]["all-negative"]["test"]["accuracy"] == (labels == 0).mean()


def test_the_summary_has_at_most_twelve_numbers(pipeline: Pipeline) -> None:
    summary = pipeline.json("reports/summary.json")
    scalars = list(flatten(summary).values())
    assert len(scalars) <= 12
    assert all(isinstance(value, float) for value in scalars)


def test_thresholds_are_fitted_on_validation(pipeline: Pipeline) -> None:
    labels = np.load(pipeline.folder / "data/processed/val_labels.npy")
    logits = np.load(pipeline.folder / "predictions/cnn.npz")["val_logits"]
    operating_point = decisions.read(pipeline.folder / "decisions/cnn.json")
    train, val = (
        splits.open_split(pipeline.folder / "data/processed", s) for s in ("train", "val")
    )
    ood = OodReference.of(train.images, val.images)
    refitted = decisions.decide(
        "cnn", labels, CHESTMNIST, logits, "temperature", "youden", 0.9, ood
    )
    assert operating_point.as_json() == refitted.as_json()
    missing = [i for i in range(14) if not labels[:, i].any()]
    assert np.flatnonzero(np.isnan(operating_point.thresholds)).tolist() == missing


def test_no_map_is_all_zero_and_maps_differ_between_labels(pipeline: Pipeline) -> None:
    for model in MODELS:
        attribution = np.load(pipeline.folder / f"attributions/{model}.npz")["attribution"]
        flat = attribution.reshape(*attribution.shape[:2], -1)
        assert (np.abs(flat).max(axis=2) > 0).all()
        for image in flat:
            assert len(np.unique(image, axis=0)) == len(CHESTMNIST)


def test_maps_of_true_positives_are_compared_with_the_phantoms_masks(pipeline: Pipeline) -> None:
    labels = np.load(pipeline.folder / "data/processed/test_labels.npy")
    report = pipeline.json("reports/gradcam.json")["models"]
    for model in MODELS:
        operating_point = decisions.read(pipeline.folder / f"decisions/{model}.json")
        logits = np.load(pipeline.folder / f"predictions/{model}.npz")["test_logits"]
        predicted_positive = operating_point.calibration.probs(logits) >= operating_point.thresholds
        true_positive = predicted_positive & (labels == 1)
        trained = report[model]["localisation"]["phantom"]
        assert trained["truth"] == "phantom"
        for i, label in enumerate(CHESTMNIST):
            # A probability at the threshold may fall on either side.
            assert abs(trained["labels"][label]["n"] - true_positive[:, i].sum()) <= 1
        untrained = report[model]["localisation_untrained"]["phantom"]["pooled"]
        assert untrained["n"] == trained["pooled"]["n"]
        assert untrained["pointing_centre"] == trained["pooled"]["pointing_centre"]
        assert report[model]["faithfulness"]["n"] == min(4, true_positive.sum())
        assert report[model]["sanity"]["randomised"][0]["down_to"] == "classifier"


def test_wrong_boxes_or_methods_stop_the_stage_with_a_one_line_error(pipeline: Pipeline) -> None:
    before = (pipeline.folder / "params.yaml").read_text()
    cases = {
        "gradcam.boxes": ({"nih": {"path": "none.csv"}}, "gradcam.boxes.nih.path: "),
        "gradcam.method.cnn": (
            "rollout",
            "rollout requires a network with attention, and Cnn has none",
        ),
    }
    for key, (value, sentence) in cases.items():
        pipeline.change(**{key: value})
        done = pipeline.run("dvc", "repro", "--single-item", "maps-cnn")
        (pipeline.folder / "params.yaml").write_text(before)
        (line,) = [text for text in done.stderr.splitlines() if text.startswith("maps-cnn: ")]
        assert sentence in line and "Traceback" not in done.stderr
    pipeline.dvc("checkout")
    assert pipeline.repro() == []


def test_experts_boxes_are_compared_with_the_maps_and_with_each_other(
    once: Path, tmp_path: Path
) -> None:
    pipeline = Pipeline(once).copy(tmp_path / "clone")
    names = {"one": "image_id,label,x,y,width,height\n", "two": "image_id,class,x,y,width,height\n"}
    image, label = np.argwhere(np.load(pipeline.folder / "data/processed/test_labels.npy") == 1)[0]
    finding, test_image = CHESTMNIST[label], f"phantom-test-{image:06}"
    boxes = {
        "one": f"{test_image},{finding},0,0,1024,1024\nelsewhere,mass,0,0,9,9\n",
        "two": f"{test_image},Shadow,0,0,1024,512\nphantom-train-000000,Normal,,,,\n",
    }
    for expert, header in names.items():
        (pipeline.folder / f"{expert}.csv").write_text(header + boxes[expert])
    experts = {"one": {"path": "one.csv"}, "two": {"path": "two.csv"}}
    pipeline.change(gradcam__boxes=experts)
    refused = pipeline.run("dvc", "repro", "--force", "--single-item", "preprocess")
    (line,) = [text for text in refused.stderr.splitlines() if text.startswith("preprocess: ")]
    assert "gradcam.boxes.two: " in line and "line 2: 'Shadow' is not a label of the data" in line
    pipeline.dvc("checkout")
    pipeline.change(
        gradcam__boxes=experts | {"two": {"path": "two.csv", "labels": {"Shadow": [finding]}}}
    )
    assert pipeline.repro() == ["maps-cnn", "maps-squeezenet", "maps-vit", "gradcam"]
    report = pipeline.json("reports/gradcam.json")
    for model in MODELS:
        for key in ("localisation", "localisation_untrained"):
            pooled = {
                expert: each["pooled"] for expert, each in report["models"][model][key].items()
            }
            assert list(pooled) == ["one", "two"]
            assert pooled["one"]["n"] == pooled["two"]["n"] == 1
            assert pooled["one"]["energy_chance"] == 1 and pooled["one"]["pointing_chance"] == 1
            assert pooled["two"]["energy_chance"] == pytest.approx(0.5)
        metrics = pipeline.json(f"records/maps-{model}.json")["runs"][0]["metrics"]
        trained = report["models"][model]["localisation"]
        for expert in ("one", "two"):
            found = metrics[f"gradcam/{expert}/pointing"]
            assert found == trained[expert]["pooled"]["pointing"]
    (pair,) = report["experts"]
    assert (pair["a"], pair["b"]) == ("one", "two")
    assert pair["any_finding"] == pair["same_finding"]
    assert pair["any_finding"]["images"] == 1 and pair["any_finding"]["median_iou"] == 0.5
    # The centre of the whole image is on the lower edge of its upper half.
    assert pair["any_finding"]["a_in_b"]["share"] == 0
    assert pair["any_finding"]["b_in_a"]["share"] == 1
    for stage in ("maps-cnn", "gradcam"):
        foreign = pipeline.json(f"records/{stage}.json")["facts"]["foreign"]
        assert {Path(path).name for path in foreign} == {"one.csv", "two.csv"}
    assert pipeline.run("cxr", "report").returncode == 0
    page = (pipeline.folder / "reports/index.html").read_text()
    assert "What one expert scores against another" in page
    assert '<th scope="row">one</th><td>two</td><td>the same finding</td>' in page


def test_every_stage_has_its_runs_in_mlflow(pipeline: Pipeline) -> None:
    expected = STAGES | {f"evaluate-{name}" for name in (*MODELS, *BASELINES)}
    logged = runs(pipeline)
    assert set(logged) == expected
    assert {run.info.status for run in logged.values()} == {"FINISHED"}


def test_records_name_the_runs_that_made_the_outputs(pipeline: Pipeline) -> None:
    id_tag = "cxr.original_run_id"  # of the shared runs of models
    remaining = {run.data.tags.get(id_tag, run.info.run_id): run for run in runs(pipeline).values()}
    for stage in STAGES:
        record = pipeline.json(f"records/{stage}.json")
        for log in record["runs"]:
            run = remaining.pop(log["run_id"])
            if log["shared"]:
                assert run.data.tags["cxr.experiment"] == "workspace"
                assert "cxr.fingerprint" not in run.data.tags
            else:
                assert run.data.tags["cxr.fingerprint"] == record["fingerprint"]
            assert run.data.params == {key: str(value) for key, value in log["params"].items()}
            for name, value in log["metrics"].items():
                assert run.data.metrics[name] == pytest.approx(value)
        for path, digest in record["outputs"].items():
            assert hashing.digest(pipeline.folder / path).md5 == digest["md5"]
    assert remaining == {}


def test_records_and_dvc_lock_have_the_same_md5s(pipeline: Pipeline) -> None:
    from cxr.documents import read_yaml

    locked = read_yaml(pipeline.folder / "dvc.lock")["stages"]
    for stage in STAGES:
        record = pipeline.json(f"records/{stage}.json")
        outs = {out["path"]: out["md5"] for out in locked[stage]["outs"]}
        deps = {dep["path"]: dep["md5"] for dep in locked[stage].get("deps", [])}
        assert deps == {k: v["md5"] for k, v in record["facts"]["dependencies"].items()}
        assert outs.items() >= {k: v["md5"] for k, v in record["outputs"].items()}.items()
        assert record["facts"]["command"] == locked[stage]["cmd"]


def test_mlflow_has_the_curves_of_history_csv(pipeline: Pipeline) -> None:
    store, logged = client(pipeline), runs(pipeline)
    for model in MODELS:
        with open(pipeline.folder / f"reports/{model}/history.csv") as file:
            rows = list(csv.DictReader(file))
        points = store.get_metric_history(logged[f"train-{model}"].info.run_id, "loss/val")
        assert [(p.step, p.value) for p in points] == [
            (int(row["epoch"]), float(row["val_loss"])) for row in rows
        ]


def test_a_training_logs_how_long_it_took(pipeline: Pipeline) -> None:
    logged = runs(pipeline)
    for model in MODELS:
        seconds = pipeline.json(f"reports/{model}/train.json")["seconds"]
        metrics = logged[f"train-{model}"].data.metrics
        assert metrics["speed/training_seconds"] == pytest.approx(seconds)


def test_mlflow_has_images_data_sets_and_training_parameters(pipeline: Pipeline) -> None:
    store, logged = client(pipeline), runs(pipeline)
    maps, gradcam = logged["maps-vit"], logged["gradcam"]
    paths = [a.path for a in store.list_artifacts(maps.info.run_id, "gradcam/vit")]
    assert paths == ["gradcam/vit/0.png", "gradcam/vit/3.png", "gradcam/vit/labels"]
    paths = [a.path for a in store.list_artifacts(gradcam.info.run_id, "gradcam/side-by-side")]
    assert paths == ["gradcam/side-by-side/0.png", "gradcam/side-by-side/3.png"]
    processed = hashing.digest(pipeline.folder / "data/processed").md5
    for run in (maps, gradcam, logged["train-cnn"], logged["evaluate-vit"]):
        digests = {d.dataset.name: d.dataset.digest for d in run.inputs.dataset_inputs}
        assert digests["phantom-28/data/processed"] == processed
        assert run.data.tags["cxr.md5.data/processed"] == processed
    assert logged["evaluate-vit"].data.params["train.vit.depth"] == "1"
    assert logged["evaluate-vit"].data.params["train.protocol.epochs"] == "2"


def test_sliders_have_a_step_for_each_label_that_is_shown(pipeline: Pipeline) -> None:
    """The labels of the image and at most three false positives; without either, one label."""
    store, logged = client(pipeline), runs(pipeline)
    labels = np.load(pipeline.folder / "data/processed/test_labels.npy")
    for model in MODELS:
        run = logged[f"maps-{model}"]
        operating_point = decisions.read(pipeline.folder / f"decisions/{model}.json")
        logits = np.load(pipeline.folder / f"predictions/{model}.npz")["test_logits"]
        predicted_positive = operating_point.calibration.probs(logits) >= operating_point.thresholds
        names = [Path(a.path).name for a in store.list_artifacts(run.info.run_id, "images")]
        for image in (0, 3):
            slides = [n for n in names if n.startswith(f"maps~test image {image}+")]
            steps = [int(n.split("+")[2]) for n in slides if n.endswith(".png")]
            true = set(np.flatnonzero(labels[image]))
            wrong = set(np.flatnonzero(predicted_positive[image])) - true
            assert len(steps) == len(set(steps)) == max(1, len(true) + min(3, len(wrong)))
            assert true <= set(steps)
            assert set(steps) <= true | wrong or not true | wrong
            files = (pipeline.folder / f"reports/gradcam/{model}/{image}").glob("*.png")
            assert {CHESTMNIST.index(path.stem) for path in files} == set(steps)


def test_reports_and_records_name_the_data_and_its_source(pipeline: Pipeline) -> None:
    assert pipeline.json("reports/data.json")["data"]["source"] == "phantom"
    assert pipeline.json("reports/metrics.json")["data"]["name"] == "phantom-28"
    assert pipeline.json("records/gradcam.json")["data"] == {
        "name": "phantom-28",
        "source": "phantom",
    }


def test_files_that_later_stages_read_contain_no_run_id_host_or_folder(pipeline: Pipeline) -> None:
    variable = {log["run_id"] for s in STAGES for log in pipeline.json(f"records/{s}.json")["runs"]}
    variable |= {pipeline.json("records/evaluate.json")["host"], str(pipeline.folder)}
    for folder in REPRODUCIBLE_OUTPUTS:
        for path in (pipeline.folder / folder).rglob("*.json"):
            assert not any(text in path.read_text() for text in variable)


def test_dvc_shows_parameters_metrics_plots_and_experiments(pipeline: Pipeline) -> None:
    pipeline.run("git", "add", "dvc.lock")
    pipeline.run("git", "commit", "-qm", "first")
    before = (pipeline.folder / "params.yaml").read_text()
    pipeline.change(train__vit__lr=0.5)
    assert "train.vit.lr" in pipeline.dvc("params", "diff")
    (pipeline.folder / "params.yaml").write_text(before)
    assert "test_macro_auroc" in pipeline.dvc("metrics", "show")
    done = pipeline.run("dvc", "plots", "diff", "--json")
    plots = json.loads(done.stdout)
    assert "errors" not in plots
    curves = {"ROC curves on test", "precision and recall on test", "reliability on test"}
    others = {"loss on training", "AUROC on test with 95% intervals"}
    assert curves | others | {"reports/evaluation/auroc.png"} <= set(plots["data"])
    for name in curves:  # drawn by the project's own template, with every model and label
        (plot,) = plots["data"][name]
        points = plot["content"]["data"]["values"]
        assert {point["model"] for point in points} == set(MODELS)
        assert len({point["label"] for point in points}) >= 10
    assert "test_macro_auroc" in pipeline.dvc("exp", "show", "--csv")


def test_an_edit_of_reporting_code_re_runs_no_stage(pipeline: Pipeline) -> None:
    source = pipeline.folder / "src/cxr"
    edited = [
        path
        for path in source.rglob("*.py")
        if path.relative_to(source).parts[0].removesuffix(".py") not in RESULT_AFFECTING
    ]
    originals = [path.read_text() for path in edited]
    for path, text in zip(edited, originals, strict=True):
        path.write_text(text + "\n# a new colour\n")
    try:
        assert "up to date" in pipeline.dvc("status")
    finally:
        for path, text in zip(edited, originals, strict=True):
            path.write_text(text)


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("models/vit.py", {"train-vit", "evaluate", "maps-vit"}),
        ("cam/trust.py", {"maps-cnn", "maps-squeezenet", "maps-vit"}),
        ("training/loop.py", {"train-cnn", "train-squeezenet", "train-vit"}),
        ("training/features.py", {"features"}),
    ],
)
def test_an_edit_of_a_module_changes_the_stages_that_import_it(
    pipeline: Pipeline, module: str, stages: set[str]
) -> None:
    path = pipeline.folder / "src/cxr" / module
    text = path.read_text()
    path.write_text(text + "\n# a comment\n")
    try:
        status = pipeline.dvc("status")
    finally:
        path.write_text(text)
    assert set(re.findall(r"^([\w-]+):$", status, re.MULTILINE)) == stages


def test_a_new_learning_rate_re_runs_its_training_and_later_stages(pipeline: Pipeline) -> None:
    before = (pipeline.folder / "params.yaml").read_text()
    pipeline.change(train__vit__lr=0.003)
    assert pipeline.repro() == ["train-vit", "evaluate", "maps-vit", "gradcam"]
    assert pipeline.repro() == []
    (pipeline.folder / "params.yaml").write_text(before)
    pipeline.repro()


def test_retraining_is_bit_identical_and_re_runs_no_later_stage(pipeline: Pipeline) -> None:
    before = digests(pipeline)
    for model in MODELS:
        assert pipeline.repro("--force", "--single-item", f"train-{model}") == [f"train-{model}"]
    assert digests(pipeline) == before
    assert pipeline.repro() == []


def test_reporting_code_changes_no_byte_of_a_result(pipeline: Pipeline, tmp_path: Path) -> None:
    """Change figures, messages and tracking, and run all in a folder with umlaut and space."""
    other = create(tmp_path / "röntgen bilder")
    for name, before, after in (
        ("plots/figure.py", "DPI = 100", "DPI = 50"),
        ("progress.py", "shown(line)", "shown(line)[::-1]"),
        ("tracking/processes.py", "without an error message", "in silence"),
    ):
        file = other.folder / "src/cxr" / name
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, after))
    other.repro()
    assert digests(other) == digests(pipeline)
    edited, original = (
        hashing.digest(p.folder / "reports/evaluation/auroc.png") for p in (other, pipeline)
    )
    assert edited != original


def test_an_unfrozen_squeezenet_trains_all_its_parameters(tmp_path: Path) -> None:
    whole = create(tmp_path)
    whole.change(train__squeezenet__freeze=False, train__protocol__epochs=1)
    assert "train-squeezenet" in whole.repro("train-squeezenet")
    assert sorted(p.name for p in (whole.folder / "data/features").iterdir()) == [
        "backbone.safetensors", "features.json",
    ]  # fmt: skip
    assert whole.json("reports/squeezenet/train.json")["parameters"] == {
        "total": 729_678, "trainable": 729_678,
    }  # fmt: skip

"""The pipeline itself: what `dvc repro` leaves behind, and what makes which stage run again."""

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
from cxr.labels import LABELS
from cxr.lineage.facts import RESULT_AFFECTING
from cxr.params import flatten

pytestmark = pytest.mark.slow

MODELS = ("cnn", "squeezenet", "vit")
STAGES = {
    "download", "preprocess", "features", "train-cnn", "train-squeezenet", "train-vit",
    "evaluate", "gradcam",
}  # fmt: skip
DECIDING_OUTPUTS = ("data", "models", "predictions", "decisions")


@pytest.fixture(scope="module")
def made(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pipeline that has run once."""
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
    return {path: hashing.digest(pipeline.folder / path).md5 for path in DECIDING_OUTPUTS}


def test_nothing_runs_twice(made: Pipeline) -> None:
    assert made.repro() == []


def test_nothing_is_left_in_scratch_but_what_dvc_took_last(made: Pipeline) -> None:
    (last,) = [path for path in (made.folder / ".scratch").iterdir() if path.is_dir()]
    assert json.loads((last / "attempt.json").read_text())["stage"] == "gradcam"
    assert {path.name for path in last.iterdir()} == {"attempt.json", "log.txt", "outputs"}


def test_git_sees_only_the_lock(made: Pipeline) -> None:
    assert made.run("git", "status", "--porcelain").stdout.split() == ["??", "dvc.lock"]


def test_metrics_are_those_of_the_predictions(made: Pipeline) -> None:
    """Recomputed here from predictions and labels with sklearn alone."""
    labels = np.load(made.folder / "data/processed/test_labels.npy")
    metrics = made.json("reports/metrics.json")
    assert list(metrics["models"]) == [*MODELS, *BASELINES]
    for model in MODELS:
        logits = np.load(made.folder / f"predictions/{model}.npz")["test_logits"]
        both = [i for i in range(14) if 0 < labels[:, i].sum() < len(labels)]
        areas = [roc_auc_score(labels[:, i], logits[:, i]) for i in both]
        test = metrics["models"][model]["test"]
        assert test["macro_auroc"] == pytest.approx(np.mean(areas), abs=1e-12)
        assert test["n_labels"] == len(both)
        undefined = {
            entry["label"] for entry in test["undefined"] if "auroc" in entry["what"].split(", ")
        }
        assert undefined == {LABELS[i] for i in range(14) if i not in both}
        probs = decisions.read(made.folder / f"decisions/{model}.json").calibration.probs(logits)
        accuracy = ((probs >= 0.5) == labels).mean()
        assert test["accuracy"] == pytest.approx(accuracy)
    assert metrics["models"]["all-negative"]["test"]["accuracy"] == (labels == 0).mean()


def test_summary_is_small_and_flat_enough(made: Pipeline) -> None:
    summary = made.json("reports/summary.json")
    scalars = list(flatten(summary).values())
    assert len(scalars) <= 12
    assert all(isinstance(value, float) for value in scalars)


def test_thresholds_come_from_validation(made: Pipeline) -> None:
    labels = np.load(made.folder / "data/processed/val_labels.npy")
    logits = np.load(made.folder / "predictions/cnn.npz")["val_logits"]
    decision = decisions.read(made.folder / "decisions/cnn.json")
    train, val = (splits.open_split(made.folder / "data/processed", s) for s in ("train", "val"))
    ood = OodReference.of(train.images, val.images)
    again = decisions.decide("cnn", labels, logits, "temperature", "youden", 0.9, ood)
    assert decision.as_json() == again.as_json()
    missing = [i for i in range(14) if not labels[:, i].any()]
    assert np.flatnonzero(np.isnan(decision.thresholds)).tolist() == missing


def test_every_map_is_alive_and_changes_with_the_label(made: Pipeline) -> None:
    for model in MODELS:
        attribution = np.load(made.folder / f"reports/maps/{model}.npz")["attribution"]
        flat = attribution.reshape(*attribution.shape[:2], -1)
        assert (np.abs(flat).max(axis=2) > 0).all()
        for image in flat:
            assert len(np.unique(image, axis=0)) == len(LABELS)


def test_maps_are_held_against_the_phantoms_masks(made: Pipeline) -> None:
    """On the findings that the model has found, as the predictions say."""
    labels = np.load(made.folder / "data/processed/test_labels.npy")
    report = made.json("reports/gradcam.json")["models"]
    for model in MODELS:
        decision = decisions.read(made.folder / f"decisions/{model}.json")
        logits = np.load(made.folder / f"predictions/{model}.npz")["test_logits"]
        found = (decision.calibration.probs(logits) >= decision.thresholds) & (labels == 1)
        told = report[model]["localisation"]
        assert told["truth"] == "phantom"
        for i, label in enumerate(LABELS):
            assert abs(told["labels"][label]["n"] - found[:, i].sum()) <= 1  # at the threshold
        untrained = report[model]["localisation_untrained"]["pooled"]
        assert untrained["n"] == told["pooled"]["n"]
        assert untrained["pointing_centre"] == told["pooled"]["pointing_centre"]
        assert report[model]["faithfulness"]["n"] == min(4, found.sum())
        assert report[model]["sanity"]["randomised"][0]["down_to"] == "classifier"


def test_wrong_boxes_or_methods_stop_the_stage_in_one_line(made: Pipeline) -> None:
    before = (made.folder / "params.yaml").read_text()
    cases = {
        "gradcam.boxes=none.csv": "gradcam.boxes: ",
        "gradcam.method.cnn=rollout": "rollout requires a network with attention, and Cnn has none",
    }
    for change, sentence in cases.items():
        key, value = change.split("=")
        made.change(**{key: value})
        done = made.run("dvc", "repro", "--single-item", "gradcam")
        (made.folder / "params.yaml").write_text(before)
        (line,) = [each for each in done.stderr.splitlines() if each.startswith("gradcam: ")]
        assert sentence in line and "Traceback" not in done.stderr
    made.dvc("checkout")
    assert made.repro() == []


def test_every_stage_has_its_runs_in_mlflow(made: Pipeline) -> None:
    single = STAGES - {"evaluate", "gradcam"}
    expected = single | {f"gradcam-{model}" for model in MODELS}
    expected |= {f"evaluate-{name}" for name in (*MODELS, *BASELINES)}
    found = runs(made)
    assert set(found) == expected
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_records_lead_to_the_runs_that_made_the_outputs(made: Pipeline) -> None:
    found = {run.info.run_id: run for run in runs(made).values()}
    for stage in STAGES:
        record = made.json(f"records/{stage}.json")
        for log in record["runs"]:
            run = found.pop(log["run_id"])
            assert run.data.tags["cxr.fingerprint"] == record["fingerprint"]
            assert run.data.params == {key: str(value) for key, value in log["params"].items()}
            for name, value in log["metrics"].items():
                assert run.data.metrics[name] == pytest.approx(value)
        for path, digest in record["outputs"].items():
            assert hashing.digest(made.folder / path).md5 == digest["md5"]
    assert found == {}


def test_records_and_dvc_lock_hold_the_same_md5s(made: Pipeline) -> None:
    from cxr.documents import read_yaml

    locked = read_yaml(made.folder / "dvc.lock")["stages"]
    for stage in STAGES:
        record = made.json(f"records/{stage}.json")
        outs = {out["path"]: out["md5"] for out in locked[stage]["outs"]}
        deps = {dep["path"]: dep["md5"] for dep in locked[stage].get("deps", [])}
        assert deps == {k: v["md5"] for k, v in record["facts"]["dependencies"].items()}
        assert outs.items() >= {k: v["md5"] for k, v in record["outputs"].items()}.items()
        assert record["facts"]["command"] == locked[stage]["cmd"]


def test_mlflow_holds_the_curves_of_history_csv(made: Pipeline) -> None:
    store, found = client(made), runs(made)
    for model in MODELS:
        with open(made.folder / f"reports/{model}/history.csv") as file:
            rows = list(csv.DictReader(file))
        points = store.get_metric_history(found[f"train-{model}"].info.run_id, "loss/val")
        assert [(p.step, p.value) for p in points] == [
            (int(row["epoch"]), float(row["val_loss"])) for row in rows
        ]


def test_a_training_logs_how_long_it_took(made: Pipeline) -> None:
    found = runs(made)
    for model in MODELS:
        seconds = made.json(f"reports/{model}/train.json")["seconds"]
        logged = found[f"train-{model}"].data.metrics["speed/training_seconds"]
        assert logged == pytest.approx(seconds)


def test_mlflow_holds_pictures_data_sets_and_training_parameters(made: Pipeline) -> None:
    store, found = client(made), runs(made)
    gradcam = found["gradcam-vit"]
    names = [a.path for a in store.list_artifacts(gradcam.info.run_id, "gradcam/vit")]
    assert names == ["gradcam/vit/0.png", "gradcam/vit/3.png", "gradcam/vit/labels"]
    names = [a.path for a in store.list_artifacts(gradcam.info.run_id, "gradcam/side-by-side")]
    assert names == ["gradcam/side-by-side/0.png", "gradcam/side-by-side/3.png"]
    processed = hashing.digest(made.folder / "data/processed").md5
    for run in (gradcam, found["train-cnn"]):
        digests = {d.dataset.name: d.dataset.digest for d in run.inputs.dataset_inputs}
        assert digests["phantom-28/data/processed"] == processed
        assert run.data.tags["cxr.md5.data/processed"] == processed
    assert found["evaluate-vit"].data.params["train.vit.depth"] == "1"
    assert found["evaluate-vit"].data.params["train.protocol.epochs"] == "2"


def test_sliders_have_a_step_for_each_label_that_is_shown(made: Pipeline) -> None:
    """What is there, and what the model calls; of that at most three that are not there.

    Where there is nothing, one label stands for all.
    """
    store, found = client(made), runs(made)
    labels = np.load(made.folder / "data/processed/test_labels.npy")
    for model in MODELS:
        run = found[f"gradcam-{model}"]
        decision = decisions.read(made.folder / f"decisions/{model}.json")
        logits = np.load(made.folder / f"predictions/{model}.npz")["test_logits"]
        called = decision.calibration.probs(logits) >= decision.thresholds
        names = [Path(a.path).name for a in store.list_artifacts(run.info.run_id, "images")]
        for image in (0, 3):
            slides = [n for n in names if n.startswith(f"maps~test image {image}+")]
            steps = [int(n.split("+")[2]) for n in slides if n.endswith(".png")]
            there = set(np.flatnonzero(labels[image]))
            wrong = set(np.flatnonzero(called[image])) - there
            assert len(steps) == len(set(steps)) == max(1, len(there) + min(3, len(wrong)))
            assert there <= set(steps)
            assert set(steps) <= there | wrong or not there | wrong
            files = (made.folder / f"reports/gradcam/{model}/{image}").glob("*.png")
            assert {LABELS.index(path.stem) for path in files} == set(steps)


def test_pictures_say_phantom_and_data_says_its_source(made: Pipeline) -> None:
    assert made.json("reports/data.json")["data"]["source"] == "phantom"
    assert made.json("reports/metrics.json")["data"]["name"] == "phantom-28"
    assert made.json("records/gradcam.json")["data"] == {"name": "phantom-28", "source": "phantom"}


def test_what_later_stages_read_is_free_of_times_ids_and_hosts(made: Pipeline) -> None:
    secrets = {log["run_id"] for s in STAGES for log in made.json(f"records/{s}.json")["runs"]}
    secrets |= {made.json("records/evaluate.json")["host"], str(made.folder)}
    for folder in DECIDING_OUTPUTS:
        for path in (made.folder / folder).rglob("*.json"):
            assert not any(secret in path.read_text() for secret in secrets)


def test_dvc_tells_the_story(made: Pipeline) -> None:
    made.run("git", "add", "dvc.lock")
    made.run("git", "commit", "-qm", "first")
    before = (made.folder / "params.yaml").read_text()
    made.change(train__vit__lr=0.5)
    assert "train.vit.lr" in made.dvc("params", "diff")
    (made.folder / "params.yaml").write_text(before)
    assert "test_macro_auroc" in made.dvc("metrics", "show")
    done = made.run("dvc", "plots", "diff", "--json")
    plots = json.loads(done.stdout)
    assert "errors" not in plots
    curves = {"ROC curves on test", "precision and recall on test", "reliability on test"}
    others = {"loss on training", "AUROC on test with 95 % intervals"}
    assert curves | others | {"reports/evaluation/auroc.png"} <= set(plots["data"])
    for name in curves:  # drawn by our own template, with every model and label
        (drawn,) = plots["data"][name]
        points = drawn["content"]["data"]["values"]
        assert {point["model"] for point in points} == set(MODELS)
        assert len({point["label"] for point in points}) >= 10
    assert "test_macro_auroc" in made.dvc("exp", "show", "--csv")


def test_an_edit_of_reporting_code_runs_nothing_again(made: Pipeline) -> None:
    source = made.folder / "src/cxr"
    edited = [
        path
        for path in source.rglob("*.py")
        if path.relative_to(source).parts[0].removesuffix(".py") not in RESULT_AFFECTING
    ]
    originals = [path.read_text() for path in edited]
    for path, text in zip(edited, originals, strict=True):
        path.write_text(text + "\n# a new colour\n")
    try:
        assert "up to date" in made.dvc("status")
    finally:
        for path, text in zip(edited, originals, strict=True):
            path.write_text(text)


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("models/vit.py", {"train-vit", "evaluate", "gradcam"}),
        ("training/loop.py", {"train-cnn", "train-squeezenet", "train-vit"}),
        ("training/features.py", {"features"}),
    ],
)
def test_an_edit_of_a_module_changes_the_stages_that_import_it(
    made: Pipeline, module: str, stages: set[str]
) -> None:
    path = made.folder / "src/cxr" / module
    text = path.read_text()
    path.write_text(text + "\n# a comment\n")
    try:
        status = made.dvc("status")
    finally:
        path.write_text(text)
    assert set(re.findall(r"^([\w-]+):$", status, re.MULTILINE)) == stages


def test_one_rate_runs_one_training_and_what_follows(made: Pipeline) -> None:
    before = (made.folder / "params.yaml").read_text()
    made.change(train__vit__lr=0.003)
    assert made.repro() == ["train-vit", "evaluate", "gradcam"]
    assert made.repro() == []
    (made.folder / "params.yaml").write_text(before)
    made.repro()


def test_retraining_gives_the_same_bits_and_runs_nothing_after_it(made: Pipeline) -> None:
    before = digests(made)
    for model in MODELS:
        assert made.repro("--force", "--single-item", f"train-{model}") == [f"train-{model}"]
    assert digests(made) == before
    assert made.repro() == []


def test_reporting_code_changes_no_byte_of_a_result(made: Pipeline, tmp_path: Path) -> None:
    """Figures, messages and tracking are changed for real, and everything is made again.

    In a folder whose name is not plain.
    """
    other = create(tmp_path / "röntgen bilder")
    source = other.folder / "src/cxr"
    plots = source / "plots" / "figure.py"
    plots.write_text(plots.read_text().replace("DPI = 100", "DPI = 50"))
    progress = source / "progress.py"
    progress.write_text(progress.read_text().replace("shown(line)", "shown(line)[::-1]"))
    tracking = source / "tracking/processes.py"
    tracking.write_text(tracking.read_text().replace("without an error message", "in silence"))
    other.repro()
    assert digests(other) == digests(made)
    mine, theirs = (
        hashing.digest(p.folder / "reports/evaluation/auroc.png") for p in (other, made)
    )
    assert mine != theirs


def test_fine_tuning_the_whole_squeezenet(tmp_path: Path) -> None:
    whole = create(tmp_path)
    whole.change(train__squeezenet__freeze=False, train__protocol__epochs=1)
    assert "train-squeezenet" in whole.repro("train-squeezenet")
    assert sorted(p.name for p in (whole.folder / "data/features").iterdir()) == [
        "backbone.safetensors", "features.json",
    ]  # fmt: skip
    assert whole.json("reports/squeezenet/train.json")["parameters"] == {
        "total": 729_678, "trainable": 729_678,
    }  # fmt: skip

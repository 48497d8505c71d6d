"""External predictions get the same metrics as the project's models; bad files are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cxr
from sklearn.metrics import roc_auc_score

from cxr.data import splits
from cxr.data.ood import OodReference
from cxr.evaluation import decisions
from cxr.evaluation.description import TOO_NARROW, TRIVIAL, Predicted
from cxr.evaluation.evaluate import evaluate
from cxr.labels import CHESTMNIST
from cxr.scoring import score as scoring

PREDICTIONS = Path(__file__).parents[2].parent / "shared" / "data" / "predictions"
OOD = OodReference(np.arange(49.0) / 3, np.eye(49) / 7, 10.0, 60.0, 210.0, 20.0)
PUBLISHED = {"densenet121_seed0": 0.7025, "vit_small_seed0": 0.6755}


def scored(
    predictions: Path,
    labels: Path,
    project: Path | None = None,
    split: str = "test",
    **options: bool,
) -> scoring.Score:
    return scoring.score(
        predictions, labels, split, False, 200, 0, lambda done, total: None, project, **options
    )


def images(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and a model's logits."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 14)) < 0.3).astype(np.uint8)
    return labels, (rng.normal(size=(n, 14)) + labels - 1).astype(np.float32)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The outputs of evaluate for two models, and its data, without patients."""
    folder = tmp_path / "project"
    for name in ("data/processed", "predictions", "decisions", "reports"):
        (folder / name).mkdir(parents=True)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text("seed: 0\n")
    labels, _ = images()
    splits.write_dataset(
        splits.Dataset(
            splits.Origin("mine", "file"),
            28,
            dict.fromkeys(splits.SPLITS, 120),
            CHESTMNIST,
            (),
            "pad",
        ),
        folder / "data/processed",
    )
    ids = np.array([f"0000{i:04}_000" for i in range(len(labels))])
    for split in ("val", "test"):
        np.save(folder / f"data/processed/{split}_labels.npy", labels)
        np.save(folder / f"data/processed/{split}_images.npy", np.zeros((120, 28, 28), np.uint8))
        np.save(folder / f"data/processed/{split}_ids.npy", ids)
    models = {}
    for seed, name in enumerate(("cnn", "vit")):
        logits = images(seed=0)[1] + np.random.default_rng(seed).normal(size=(120, 14))
        np.savez(folder / f"predictions/{name}.npz", val_logits=logits, test_logits=logits)
        operating_point = decisions.decide(
            name, labels, CHESTMNIST, logits, "temperature", "youden", 0.9, OOD
        )
        (folder / f"decisions/{name}.json").write_text(json.dumps(operating_point.as_json()))
        models[name] = Predicted.from_logits(operating_point, logits)
    metrics = evaluate(labels, CHESTMNIST, models, None, 200, 0, lambda done, total: None).models
    report = {"models": {name: {"val": each, "test": each} for name, each in metrics.items()}}
    (folder / "reports/metrics.json").write_text(json.dumps(report))
    return folder


def reported(project: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((project / "reports/metrics.json").read_text())["models"]
    return content


def write_predictions(folder: Path, order: np.ndarray | None = None) -> Path:
    """Write logits of the project's images in another order, with ids."""
    order = np.random.default_rng(5).permutation(120) if order is None else order
    _, logits = images()
    ids = np.array([f"images/0000{i:04}_000.png" for i in order])
    np.savez(folder / "theirs.npz", test_logits=logits[order], test_ids=ids)
    return folder / "theirs.npz"


def write_labels(project: Path, folder: Path) -> Path:
    """Write labels and ids in ChestMNIST's layout."""
    processed = project / "data/processed"
    path = folder / "chest.npz"
    np.savez(
        path,
        **{f"{split}_{column}": np.load(processed / f"{split}_{column}.npy")
           for split in ("val", "test") for column in ("labels", "ids")},
    )  # fmt: skip
    return path


def test_external_predictions_are_matched_by_id_and_scored(project: Path, tmp_path: Path) -> None:
    done = scored(write_predictions(tmp_path), write_labels(project, tmp_path))
    labels, logits = images()
    assert done.matched_by == "stem"
    assert done.notes == [
        "ids are written differently in the two files: 'images/00000000_000.png' was matched "
        "with '00000000_000'"
    ]
    assert list(done.models) == ["theirs", *TRIVIAL]
    expected = roc_auc_score(labels, logits, average="macro")
    assert done.models["theirs"]["macro_auroc"] == pytest.approx(expected)
    for i, label in enumerate(CHESTMNIST):
        auroc = roc_auc_score(labels[:, i], logits[:, i])
        assert done.models["theirs"]["labels"][label]["auroc"] == pytest.approx(auroc)


def test_our_own_predictions_get_the_metrics_of_evaluate(project: Path, tmp_path: Path) -> None:
    """Except what depends on calibration: thresholds here are on raw probabilities."""
    done = scored(project / "predictions/cnn.npz", write_labels(project, tmp_path), by_order=True)
    found, expected = done.models["cnn"], reported(project)["cnn"]["test"]
    for key in ("n", "n_labels", "macro_auroc", "macro_auroc_ci", "macro_ap", "macro_ap_ci"):
        assert found[key] == expected[key]
    assert {k: found[k] for k in ("brier", "ece")} == {
        k: expected["uncalibrated"][k] for k in ("brier", "ece")
    }
    for label in CHESTMNIST:
        for key in ("auroc_ci", "ap_ci", "sensitivity", "specificity", "ppv", "npv"):
            assert found["labels"][label][key] == expected["labels"][label][key]


def test_models_are_compared_in_pairs_on_the_projects_images(project: Path, tmp_path: Path) -> None:
    done = scored(write_predictions(tmp_path), write_labels(project, tmp_path), project)
    assert list(done.models) == ["theirs", "cnn", "vit", *TRIVIAL]
    for name in ("cnn", "vit"):
        assert done.models[name]["labels"] == reported(project)[name]["test"]["labels"]
    macro = [each for each in done.comparisons if each["metric"] == "macro_auroc"]
    assert [(each["a"], each["b"]) for each in macro] == [
        ("theirs", "cnn"), ("theirs", "vit"), ("cnn", "vit"),
    ]  # fmt: skip
    assert (
        macro[0]["difference"] > 0 and macro[0]["p"] < 0.05
    )  # the project's models have added noise


def test_the_projects_models_follow_the_order_of_the_labels(project: Path, tmp_path: Path) -> None:
    """Predictions and labels are in another order than the project's images."""
    order = np.random.default_rng(5).permutation(120)
    path = tmp_path / "labels.npz"
    ids = np.load(project / "data/processed/test_ids.npy")
    np.savez(path, test_labels=images()[0][order], test_ids=ids[order])
    done = scored(write_predictions(tmp_path), path, project)
    assert done.comparisons and not any("other images" in note for note in done.notes)
    assert done.models["cnn"]["macro_auroc"] == pytest.approx(
        reported(project)["cnn"]["test"]["macro_auroc"]
    )


def test_equal_labels_without_ids_are_the_same_images(project: Path, tmp_path: Path) -> None:
    labels, logits = images()
    np.savez(tmp_path / "theirs.npz", test_logits=logits, test_labels=labels)
    done = scored(tmp_path / "theirs.npz", tmp_path / "theirs.npz", project)
    assert done.models["cnn"]["labels"] == reported(project)["cnn"]["test"]["labels"]
    assert done.notes == []  # one file has one order


def test_models_evaluated_on_other_images_are_shown_but_not_compared(
    project: Path, tmp_path: Path
) -> None:
    labels, logits = images(90, seed=3)
    np.savez(tmp_path / "theirs.npz", test_logits=logits, test_labels=labels)
    done = scored(tmp_path / "theirs.npz", tmp_path / "theirs.npz", project)
    assert list(done.models) == ["theirs", "cnn", "vit", *TRIVIAL]
    assert done.models["cnn"] == reported(project)["cnn"]["test"]
    assert done.comparisons == []
    assert "evaluated on other images" in done.notes[0]


def test_other_labels_or_other_ids_are_other_images(project: Path, tmp_path: Path) -> None:
    """The same number of images: other labels without ids, then the same labels with other ids."""
    labels, logits = images(120, seed=3)
    np.savez(tmp_path / "labels.npz", test_logits=logits, test_labels=labels)
    done = scored(tmp_path / "labels.npz", tmp_path / "labels.npz", project)
    assert done.comparisons == [] and "evaluated on other images" in done.notes[0]
    labels, logits = images()
    ids = np.array([f"another{i:04}" for i in range(120)])
    np.savez(tmp_path / "ids.npz", test_logits=logits, test_labels=labels, test_ids=ids)
    done = scored(tmp_path / "ids.npz", tmp_path / "ids.npz", project)
    assert done.comparisons == [] and "evaluated on other images" in done.notes[0]


def test_a_projects_model_of_the_same_name_is_marked(project: Path, tmp_path: Path) -> None:
    predictions = write_predictions(tmp_path).rename(tmp_path / "cnn.npz")
    done = scored(predictions, write_labels(project, tmp_path), project)
    assert list(done.models) == ["cnn", "cnn (here)", "vit", *TRIVIAL]


def test_a_projects_model_of_the_same_name_is_marked_if_images_differ(
    project: Path, tmp_path: Path
) -> None:
    labels, logits = images(90, seed=3)
    np.savez(tmp_path / "cnn.npz", test_logits=logits, test_labels=labels)
    done = scored(tmp_path / "cnn.npz", tmp_path / "cnn.npz", project)
    assert list(done.models) == ["cnn", "cnn (here)", "vit", *TRIVIAL]
    assert done.models["cnn"]["n"] == 90


def test_a_file_named_like_a_baseline_is_marked(project: Path, tmp_path: Path) -> None:
    predictions = write_predictions(tmp_path).rename(tmp_path / "prevalence.npz")
    done = scored(predictions, write_labels(project, tmp_path))
    assert list(done.models) == ["prevalence (given)", *TRIVIAL]
    assert done.models[done.name]["labels"]


def test_thresholds_need_validation_predictions_and_labels(project: Path, tmp_path: Path) -> None:
    """Ids without a split in their name belong to the scored split."""
    labels, logits = images()
    ids = np.array([str(i) for i in range(120)])
    np.savez(tmp_path / "a.npz", test_logits=logits, test_labels=labels, ids=ids,
             val_logits=logits[:50])  # fmt: skip
    metrics = scored(tmp_path / "a.npz", tmp_path / "a.npz").models["a"]
    assert metrics["labels"]["mass"]["threshold"] is None
    np.savez(tmp_path / "b.npz", test_logits=logits, test_labels=labels, ids=ids,
             val_logits=logits[:50], val_labels=labels[:50])  # fmt: skip
    metrics = scored(tmp_path / "b.npz", tmp_path / "b.npz").models["b"]
    assert metrics["labels"]["mass"]["threshold"] is not None


def test_repeated_ids_are_not_the_projects_images(project: Path, tmp_path: Path) -> None:
    labels, logits = images()
    ids = np.load(project / "data/processed/test_ids.npy")
    np.savez(tmp_path / "l.npz", test_labels=np.vstack([labels, labels]), test_ids=[*ids, *ids])
    np.savez(tmp_path / "p.npz", test_logits=np.vstack([logits, logits]))
    done = scored(tmp_path / "p.npz", tmp_path / "l.npz", project, by_order=True)
    assert done.comparisons == []


def test_without_validation_there_are_no_thresholds(project: Path, tmp_path: Path) -> None:
    done = scored(write_predictions(tmp_path), write_labels(project, tmp_path))
    metrics = done.models["theirs"]
    assert metrics["labels"]["mass"]["threshold"] is None
    assert {entry["why"] for entry in metrics["undefined"]} == {scoring.NO_VALIDATION}


def test_the_command_prints_a_table_or_json(cxr: Cxr, project: Path, tmp_path: Path) -> None:
    predictions, labels = str(write_predictions(tmp_path)), str(write_labels(project, tmp_path))
    call = ["score", predictions, "--labels", labels, "--resamples", "200"]
    result = json.loads(cxr(*call, "--json", cwd=tmp_path).stdout)
    assert result["n"] == 120 and tuple(result["labels"]) == CHESTMNIST
    shown = cxr(*call, cwd=tmp_path)
    assert shown.returncode == 0
    low, high = result["macro_auroc_ci"]
    assert f"{result['macro_auroc']:.4f} [{low:.4f}, {high:.4f}]" in shown.stdout
    for row in (*TRIVIAL, *CHESTMNIST, "too narrow"):
        assert row in shown.stdout
    compared = cxr(*call, "--compare", cwd=project)
    assert "theirs minus cnn: macro AUROC +" in compared.stdout
    together = json.loads(cxr(*call, "--compare", "--json", cwd=project).stdout)
    assert list(together["models"]) == ["theirs", "cnn", "vit", *TRIVIAL]


def test_the_output_says_how_images_were_matched(cxr: Cxr, project: Path, tmp_path: Path) -> None:
    """As a printed line and in the JSON."""
    _, logits = images()
    ids = np.load(project / "data/processed/test_ids.npy")
    np.savez(tmp_path / "p.npz", logits=logits[:100], scan=ids[:100])
    write_labels(project, tmp_path)
    call = ["score", "p.npz", "--labels", "chest.npz", "--resamples", "100"]
    assert "add --common to score the 100 that" in cxr(*call, cwd=tmp_path).stderr
    result = json.loads(cxr(*call, "--common", "--json", cwd=tmp_path).stdout)
    assert result["matched_by"] == "id"
    assert result["id_columns"] == {"predictions": "scan", "labels": "test_ids"}
    assert result["n_left_out"] == {"predictions": 0, "labels": 20} and result["n"] == 100
    shown = cxr(*call, "--common", cwd=tmp_path).stdout
    assert "matched by id: 'scan' of p.npz and 'test_ids' of chest.npz" in shown
    assert "scored the 100 images that both files have; left out 0 only in p.npz and 20" in shown
    np.save(tmp_path / "p.npy", 1 / (1 + np.exp(-logits)))
    call[1] = "p.npy"
    assert "add --by-order if both files hold" in cxr(*call, cwd=tmp_path).stderr
    result = json.loads(cxr(*call, "--by-order", "--json", cwd=tmp_path).stdout)
    assert result["matched_by"] == "order"
    assert result["id_columns"] == {"predictions": None, "labels": None}
    assert result["n_left_out"] == {"predictions": 0, "labels": 0}
    shown = cxr(*call, "--by-order", cwd=tmp_path).stdout
    assert "matched by row order: requested with --by-order" in shown


def test_unmatched_validation_gives_no_thresholds_but_a_note(project: Path, tmp_path: Path) -> None:
    _, logits = images()
    predictions = write_predictions(tmp_path)
    with np.load(predictions) as file:
        np.savez(predictions, **file, val_logits=logits[:50])
    done = scored(predictions, write_labels(project, tmp_path))
    assert done.models["theirs"]["labels"]["mass"]["threshold"] is None
    assert any("could not choose thresholds on the val split: " in note for note in done.notes)


def test_metrics_of_labels_without_positives_are_listed_as_undefined(
    cxr: Cxr, tmp_path: Path
) -> None:
    labels, logits = images()
    np.savez(tmp_path / "p.npz", logits=logits, labels=0 * labels)
    call = ["score", "p.npz", "--resamples", "100"]
    result = json.loads(cxr(*call, "--json", cwd=tmp_path).stdout)
    assert result["macro_auroc"] is None and result["macro_ap"] is None
    undefined = {each["label"] for each in result["undefined"] if "auroc" in each["what"]}
    assert undefined == {*CHESTMNIST, "all"}
    done = cxr(*call, cwd=tmp_path)
    assert done.returncode == 0 and "undefined for every label: images of one class" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.npz"], "none.npz does not exist"),
        (["theirs.npz"], "theirs.npz has no `test_labels`; it contains test_ids, test_logits"),
        (["theirs.npz", "--labels", "none.csv"], "none.csv does not exist"),
        (
            ["theirs.npz", "--labels", "other.npz"],
            "theirs.npz has 120 images and other.npz has 120: 1 only in theirs.npz, such as "
            "'images/00000007_000.png' and 1 only in other.npz, such as 'another'; add --common",
        ),
        (["theirs.npz", "--labels", "chest.npz", "--compare"], "is not inside a clone"),
        (["theirs.npz", "--labels", "chest.npz", "--split", "x"], "has no `x_logits`"),
        (["theirs.npz/a.csv", "--labels", "chest.npz"], "theirs.npz/a.csv can't be read"),
        (["theirs.npz/a.npz", "--labels", "chest.npz"], "theirs.npz/a.npz can't be read"),
    ],
)
def test_errors_are_one_line_and_exit_status_2(
    cxr: Cxr, project: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    write_predictions(tmp_path)
    labels, _ = images()
    ids = np.load(project / "data/processed/test_ids.npy")
    ids[7] = "another"
    np.savez(tmp_path / "other.npz", test_labels=labels, test_ids=ids)
    write_labels(project, tmp_path)
    done = cxr("score", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("cxr: ") and sentence in line


def test_comparing_needs_a_split_the_project_evaluated(
    cxr: Cxr, project: Path, tmp_path: Path
) -> None:
    labels, logits = images()
    np.savez(tmp_path / "a.npz", train_logits=logits, train_labels=labels)
    done = cxr("score", str(tmp_path / "a.npz"), "--split", "train", "--compare", cwd=project)
    assert done.returncode == 2
    assert "were evaluated on val and test only" in done.stderr


def test_comparing_needs_results_of_the_project(cxr: Cxr, project: Path, tmp_path: Path) -> None:
    (project / "reports/metrics.json").unlink()
    predictions, labels = str(write_predictions(tmp_path)), str(write_labels(project, tmp_path))
    done = cxr("score", predictions, "--labels", labels, "--compare", cwd=project)
    assert done.returncode == 2
    assert "has no results to compare with; run `dvc repro`" in done.stderr


@pytest.mark.skipif(not PREDICTIONS.is_dir(), reason=f"{PREDICTIONS} is not here")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_predictions_give_the_published_auroc(
    cxr: Cxr, name: str, tmp_path: Path
) -> None:
    path = PREDICTIONS / f"{name}.npz"
    result = json.loads(cxr("score", str(path), "--json", cwd=tmp_path).stdout)
    assert round(result["macro_auroc"], 4) == PUBLISHED[name]
    assert result["intervals"]["unit"] == "patient" and result["intervals"]["n_units"] == 2797
    # docs/evaluation.md states widths of 0.0179 and 0.0191 for intervals by patient.
    low, high = result["macro_auroc_ci"]
    assert 0.9 * 0.0179 < high - low < 1.1 * 0.0191
    with np.load(path) as file:
        np.savez(tmp_path / "x.npz", **{k: file[k] for k in ("test_logits", "test_labels")})
    by_image = json.loads(cxr("score", "x.npz", "--json", cwd=tmp_path).stdout)
    narrow_low, narrow_high = by_image["macro_auroc_ci"]
    assert narrow_high - narrow_low < 0.75 * (high - low)
    assert by_image["intervals"]["note"] == TOO_NARROW

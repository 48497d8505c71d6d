"""Metrics of one model on one split: by hand, against sklearn, and undefined ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
)

from cxr.data.ood import OodReference
from cxr.evaluation import decisions
from cxr.evaluation import evaluate as evaluation
from cxr.evaluation.description import (
    NO_DELONG,
    ONE_CLASS,
    PERFECT,
    TOO_NARROW,
    TRIVIAL,
    Predicted,
    baselines,
)
from cxr.evaluation.evaluate import Evaluation
from cxr.evaluation.metrics import sigmoid
from cxr.labels import CHESTMNIST

CHESTXRAY14 = Path(__file__).parents[3] / "shared" / "data" / "chestxray14_labels.npz"
OOD = OodReference(np.arange(49.0) / 3, np.eye(49) / 7, 10.0, 60.0, 210.0, 20.0)
METRICS_AT_THRESHOLD = ("sensitivity", "specificity", "ppv", "npv")


def metrics_of(
    labels: np.ndarray,
    probs: np.ndarray,
    thresholds: np.ndarray,
    patients: np.ndarray | None = None,
    n_resamples: int = 200,
) -> dict[str, Any]:
    model = Predicted(probs, probs, thresholds, "no validation split")
    return evaluate(labels, {"cnn": model}, patients, n_resamples).models["cnn"]


def evaluate(
    labels: np.ndarray,
    models: dict[str, Predicted],
    patients: np.ndarray | None = None,
    n_resamples: int = 200,
) -> Evaluation:
    names = CHESTMNIST[: labels.shape[1]]
    return evaluation.evaluate(
        labels, names, models, patients, n_resamples, 0, lambda done, total: None
    )


def four_images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atelectasis in half of the images, edema in all, no other label; thresholds of 0.4."""
    labels, probs = np.zeros((4, 14), np.uint8), np.full((4, 14), 0.1)
    labels[:, CHESTMNIST.index("atelectasis")] = [1, 1, 0, 0]
    probs[:, CHESTMNIST.index("atelectasis")] = [0.9, 0.4, 0.6, 0.1]
    labels[:, CHESTMNIST.index("edema")] = 1
    probs[:, CHESTMNIST.index("edema")] = [0.5, 0.9, 0.9, 0.9]
    thresholds = np.full(14, 0.4)
    thresholds[CHESTMNIST.index("hernia")] = np.nan
    return labels, probs, thresholds


def many_images(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 14)) < np.linspace(0.05, 0.5, 14)).astype(np.uint8)
    probs = sigmoid(rng.normal(-1, 1, (n, 14)) + labels)
    return labels, probs, np.linspace(0.2, 0.6, 14)


def test_metrics_of_four_images_equal_those_by_hand() -> None:
    metrics = metrics_of(*four_images())
    label = metrics["labels"]["atelectasis"]
    by_hand = {
        "n_positive": 2,
        "prevalence": 0.5,
        "auroc": 0.75,  # of four pairs 0.4 < 0.6 is wrong
        "ap": 0.5 * 1 + 0.5 * 2 / 3,
        "accuracy": 0.5,  # at 0.5 the second and the third image are wrong
        "accuracy_all_negative": 0.5,
        "accuracy_gain": 0,
        "brier": (0.01 + 0.36 + 0.36 + 0.01) / 4,
        "brier_skill": 1 - 0.185 / 0.25,
        "ece": (0.1 + 0.6 + 0.6 + 0.1) / 4,  # each image is a bin
        "threshold": 0.4,
        "sensitivity": 1.0,  # a probability at the threshold counts as positive
        "specificity": 0.5,
        "ppv": 2 / 3,
        "npv": 1.0,
    }
    assert {key: label[key] for key in by_hand} == pytest.approx(by_hand)
    assert label["reliability"]["share_positive"] == [0, 1, 0, 1]
    edema = metrics["labels"]["edema"]
    assert edema["accuracy"] == 1 and edema["accuracy_all_negative"] == 0  # 0.5 counts as positive
    assert (edema["sensitivity"], edema["specificity"], edema["npv"]) == (1, None, None)


def test_summary_metrics_of_four_images_equal_those_by_hand() -> None:
    metrics = metrics_of(*four_images())
    assert (metrics["n"], metrics["n_labels"]) == (4, 1)
    assert metrics["macro_auroc"] == 0.75
    assert metrics["macro_ap"] == pytest.approx(5 / 6)
    assert metrics["accuracy"] == pytest.approx(54 / 56)  # two wrong of 4 x 14
    assert metrics["accuracy_all_negative"] == pytest.approx(
        50 / 56
    )  # all-negative is wrong six times
    assert metrics["accuracy_gain"] == pytest.approx(4 / 56)
    brier = (0.74 + (0.25 + 3 * 0.01) + 12 * 4 * 0.01) / 56
    assert metrics["brier"] == pytest.approx(brier)
    assert metrics["brier_skill"] == pytest.approx(1 - brier / (0.25 / 14))


def test_every_metric_equals_sklearns() -> None:
    labels, probs, thresholds = many_images()
    metrics = metrics_of(labels, probs, thresholds)
    for i, label in enumerate(CHESTMNIST):
        y, p, of_label = labels[:, i], probs[:, i], metrics["labels"][label]
        tn, fp, fn, tp = confusion_matrix(y, p >= thresholds[i]).ravel()
        assert [of_label[key] for key in METRICS_AT_THRESHOLD] == pytest.approx(
            [tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn)]
        )
        assert of_label["auroc"] == pytest.approx(roc_auc_score(y, p))
        assert of_label["ap"] == pytest.approx(average_precision_score(y, p))
        assert of_label["brier"] == pytest.approx(brier_score_loss(y, p))
        constant = np.full(len(y), y.mean())
        skill = 1 - brier_score_loss(y, p) / brier_score_loss(y, constant)
        assert of_label["brier_skill"] == pytest.approx(skill)
        assert of_label["accuracy"] == pytest.approx(accuracy_score(y, p >= 0.5))
        assert of_label["accuracy_gain"] == pytest.approx(
            accuracy_score(y, p >= 0.5) - accuracy_score(y, np.zeros(len(y)))
        )
    assert metrics["macro_auroc"] == pytest.approx(roc_auc_score(labels, probs, average="macro"))
    assert metrics["ece"] == pytest.approx(np.mean([e["ece"] for e in metrics["labels"].values()]))
    assert metrics["undefined"] == []


def test_intervals_hold_the_values_and_agree_with_delong() -> None:
    metrics = metrics_of(*many_images(), n_resamples=2000)
    for each in metrics["labels"].values():
        assert each["auroc_ci"][0] < each["auroc"] < each["auroc_ci"][1]
        assert each["ap_ci"][0] < each["ap"] < each["ap_ci"][1]
        assert each["auroc_ci"] == pytest.approx(each["auroc_delong_ci"], abs=0.012)
    widths = [np.diff(each["auroc_ci"])[0] for each in metrics["labels"].values()]
    assert np.diff(metrics["macro_auroc_ci"])[0] < min(
        widths
    )  # the mean of 14 varies less than each


def test_without_patients_intervals_are_noted_as_too_narrow() -> None:
    info = metrics_of(*many_images())["intervals"]
    assert info == {
        "level": 0.95, "unit": "image", "n_units": 400, "n_resamples": 200, "unsure": [],
        "note": TOO_NARROW,
    }  # fmt: skip


def test_several_images_per_patient_widen_intervals_and_drop_delong() -> None:
    """Eight copies of each image hold no more information than one."""
    labels, probs, thresholds = many_images()
    eightfold = [np.repeat(each, 8, axis=0) for each in (labels, probs)]
    patients = np.repeat(np.arange(len(labels)), 8)
    metrics = metrics_of(*eightfold, thresholds, patients, 1000)
    once = metrics_of(labels, probs, thresholds, None, 1000)
    narrow = metrics_of(*eightfold, thresholds, None, 1000)
    width = {name: np.diff(t["macro_auroc_ci"])[0] for name, t in
             (("patients", metrics), ("once", once), ("images", narrow))}  # fmt: skip
    assert width["patients"] == pytest.approx(width["once"], rel=0.1)
    assert width["images"] == pytest.approx(width["once"] / np.sqrt(8), rel=0.1)
    assert metrics["intervals"]["n_units"] == 400
    assert metrics["intervals"]["note"] == NO_DELONG
    assert not any("auroc_delong_ci" in each for each in metrics["labels"].values())


def test_patients_with_one_image_each_are_independent() -> None:
    metrics = metrics_of(*many_images(), patients=np.arange(400)[::-1])
    assert metrics["intervals"]["unit"] == "patient" and "note" not in metrics["intervals"]
    assert all(each["auroc_delong_ci"] for each in metrics["labels"].values())


def test_labels_with_few_positive_patients_are_listed_as_unsure() -> None:
    labels, probs, thresholds = many_images()
    labels[:, :2] = 0
    labels[:24, :2] = 1  # 24 images of 12 patients
    assert metrics_of(labels, probs, thresholds)["intervals"]["unsure"] == []
    patients = np.arange(400) // 2
    assert metrics_of(labels, probs, thresholds, patients)["intervals"]["unsure"] == list(
        CHESTMNIST[:2]
    )


def test_resamples_without_positives_are_counted() -> None:
    labels, probs, thresholds = many_images()
    labels[:, 0] = 0
    labels[7, 0] = 1
    of_label = metrics_of(labels, probs, thresholds, n_resamples=1000)["labels"][CHESTMNIST[0]]
    assert of_label["resamples_left_out"] == pytest.approx(1000 * (1 - 1 / 400) ** 400, rel=0.15)
    assert of_label["auroc_ci"] is not None


def test_every_undefined_metric_is_listed_with_its_reason() -> None:
    labels, probs, thresholds = four_images()
    metrics = metrics_of(labels, probs, thresholds)
    named = {
        (entry["label"], key): entry["why"]
        for entry in metrics["undefined"]
        for key in entry["what"].split(", ")
    }
    missing = {
        (label, key)
        for label, each in metrics["labels"].items()
        for key, v in each.items()
        if v is None
    }
    assert set(named) == missing
    assert named["hernia", "threshold"] == named["hernia", "ppv"] == "no validation split"
    assert named["hernia", "auroc"] == named["hernia", "brier_skill"] == ONE_CLASS
    assert named["edema", "specificity"] == "no negative image"
    assert named["edema", "npv"] == "no image is predicted negative"
    assert named["mass", "sensitivity"] == "no positive image"
    assert named["mass", "ppv"] == "no image is predicted positive"


def test_a_split_without_a_defined_label_has_no_macro_average() -> None:
    metrics = metrics_of(np.zeros((3, 14), np.uint8), np.full((3, 14), 0.2), np.full(14, np.nan))
    assert metrics["macro_auroc"] is None and metrics["macro_ap_ci"] is None
    assert (metrics["n_labels"], metrics["accuracy_gain"], metrics["brier_skill"]) == (0, 0, None)
    assert {"label": "all", "why": ONE_CLASS,
            "what": "macro_auroc, macro_auroc_ci, macro_ap, macro_ap_ci, brier_skill"} in metrics[
        "undefined"
    ]  # fmt: skip
    json.dumps(metrics, allow_nan=False)


def test_one_image_and_constant_predictions_are_evaluated() -> None:
    labels = np.zeros((1, 14), np.uint8)
    labels[0, 0] = 1
    one = metrics_of(labels, np.full((1, 14), 0.3), np.full(14, 0.5))
    assert one["n_labels"] == 0 and one["labels"]["atelectasis"]["brier"] == pytest.approx(0.49)
    labels, _, thresholds = many_images()
    constant = metrics_of(labels, np.full(labels.shape, 0.3), thresholds)
    assert constant["macro_auroc"] == 0.5
    assert constant["macro_auroc_ci"] == [0.5, 0.5]
    assert constant["macro_ap"] == pytest.approx(labels.mean())
    for each in (one, constant):
        json.dumps(each, allow_nan=False)


def test_calibration_is_reported_before_and_after() -> None:
    labels, probs, _ = many_images()
    logits = 4 * np.log(probs / (1 - probs))  # overconfident
    operating_point = decisions.decide(
        "cnn", labels, CHESTMNIST, logits, "temperature", "youden", 0.9, OOD
    )
    metrics = evaluate(labels, {"cnn": Predicted.from_logits(operating_point, logits)}).models[
        "cnn"
    ]
    raw = decisions.decide("cnn", labels, CHESTMNIST, logits, "none", "youden", 0.9, OOD)
    before = evaluate(labels, {"cnn": Predicted.from_logits(raw, logits)}).models["cnn"]
    assert "uncalibrated" not in before
    assert metrics["uncalibrated"] == {key: before[key] for key in ("brier", "brier_skill", "ece")}
    assert metrics["brier"] < before["brier"] and metrics["ece"] < before["ece"]
    assert metrics["macro_auroc"] == before["macro_auroc"]


def test_baselines_equal_constant_predictions() -> None:
    labels, _, thresholds = many_images()
    for name, constant in zip(TRIVIAL, (np.zeros(14), labels.mean(axis=0)), strict=True):
        same = metrics_of(labels, np.broadcast_to(constant, labels.shape), thresholds)
        baseline = baselines(labels)[name]
        assert baseline == pytest.approx({key: same[key] for key in baseline})
        brier = [
            brier_score_loss(y, np.full(len(y), c)) for y, c in zip(labels.T, constant, strict=True)
        ]
        assert baseline["brier"] == pytest.approx(np.mean(brier))
    assert baselines(labels)["prevalence"]["brier_skill"] == pytest.approx(0)
    assert baselines(labels)["prevalence"]["ece"] == pytest.approx(0)


def test_baselines_leave_undefined_labels_out_of_the_macro_average() -> None:
    labels, _, _ = four_images()
    assert baselines(labels)["all-negative"]["macro_ap"] == 0.5


def test_models_and_baselines_are_evaluated_together() -> None:
    labels, probs, thresholds = many_images()
    models = {
        name: Predicted(p, p, thresholds, "") for name, p in (("a", probs), ("b", probs[::-1]))
    }
    metrics = evaluate(labels, models)
    assert list(metrics.models) == ["a", "b", *TRIVIAL]
    assert {(each["a"], each["b"]) for each in metrics.comparisons} == {("a", "b")}


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert metrics_of(*many_images()) == metrics_of(*many_images())


@pytest.mark.skipif(not CHESTXRAY14.is_file(), reason=f"{CHESTXRAY14} is not here")
@pytest.mark.parametrize(
    ("split", "percent"), [("train", 94.857), ("val", 94.921), ("test", 94.743)]
)
def test_all_negative_on_chestxray14_has_the_known_accuracy(split: str, percent: float) -> None:
    with np.load(CHESTXRAY14) as file:
        metrics = baselines(file[f"{split}_labels"])["all-negative"]
    assert round(100 * metrics["accuracy"], 3) == percent


def test_a_perfect_model_has_no_interval_but_a_reason() -> None:
    labels, _, thresholds = many_images()
    metrics = metrics_of(labels, labels * 0.8 + 0.1, thresholds)
    assert metrics["macro_auroc"] == 1 and metrics["macro_auroc_ci"] is None
    reasons = {entry["why"] for entry in metrics["undefined"]}
    assert reasons == {PERFECT}
    json.dumps(metrics, allow_nan=False)

"""One model on one split: by hand, against sklearn, and with everything that can be missing."""

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
    BASELINES,
    NO_DELONG,
    ONE_CLASS,
    PERFECT,
    TOO_NARROW,
    Predicted,
    baselines,
)
from cxr.evaluation.evaluate import Evaluation
from cxr.evaluation.metrics import sigmoid
from cxr.labels import LABELS

CHESTXRAY14 = Path(__file__).parents[3] / "shared" / "data" / "chestxray14_labels.npz"
TYPICAL = OodReference(np.zeros((28, 28)), 0.0)
NUMBERS_AT_THRESHOLD = ("sensitivity", "specificity", "ppv", "npv")


def told_of(
    labels: np.ndarray,
    probs: np.ndarray,
    cut: np.ndarray,
    patients: np.ndarray | None = None,
    n_resamples: int = 200,
) -> dict[str, Any]:
    model = Predicted(probs, probs, cut, "nothing to choose it on")
    return evaluate(labels, {"cnn": model}, patients, n_resamples).models["cnn"]


def evaluate(
    labels: np.ndarray,
    models: dict[str, Predicted],
    patients: np.ndarray | None = None,
    n_resamples: int = 200,
) -> Evaluation:
    return evaluation.evaluate(labels, models, patients, n_resamples, 0, lambda done, total: None)


def four_images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atelectasis is mixed, edema always there, the rest never; probabilities and cuts by hand."""
    labels, probs = np.zeros((4, 14), np.uint8), np.full((4, 14), 0.1)
    labels[:, LABELS.index("atelectasis")] = [1, 1, 0, 0]
    probs[:, LABELS.index("atelectasis")] = [0.9, 0.4, 0.6, 0.1]
    labels[:, LABELS.index("edema")] = 1
    probs[:, LABELS.index("edema")] = [0.5, 0.9, 0.9, 0.9]
    cut = np.full(14, 0.4)
    cut[LABELS.index("hernia")] = np.nan
    return labels, probs, cut


def many_images(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 14)) < np.linspace(0.05, 0.5, 14)).astype(np.uint8)
    probs = sigmoid(rng.normal(-1, 1, (n, 14)) + labels)
    return labels, probs, np.linspace(0.2, 0.6, 14)


def test_four_images_by_hand() -> None:
    told = told_of(*four_images())
    label = told["labels"]["atelectasis"]
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
    edema = told["labels"]["edema"]
    assert edema["accuracy"] == 1 and edema["accuracy_all_negative"] == 0  # 0.5 counts as yes
    assert (edema["sensitivity"], edema["specificity"], edema["npv"]) == (1, None, None)


def test_four_images_summed_up_by_hand() -> None:
    told = told_of(*four_images())
    assert (told["n"], told["n_labels"]) == (4, 1)
    assert told["macro_auroc"] == 0.75
    assert told["macro_ap"] == pytest.approx(5 / 6)
    assert told["accuracy"] == pytest.approx(54 / 56)  # two wrong of 4 x 14
    assert told["accuracy_all_negative"] == pytest.approx(50 / 56)  # "no" is wrong six times
    assert told["accuracy_gain"] == pytest.approx(4 / 56)
    brier = (0.74 + (0.25 + 3 * 0.01) + 12 * 4 * 0.01) / 56
    assert told["brier"] == pytest.approx(brier)
    assert told["brier_skill"] == pytest.approx(1 - brier / (0.25 / 14))


def test_every_number_is_sklearns() -> None:
    labels, probs, cut = many_images()
    told = told_of(labels, probs, cut)
    for i, label in enumerate(LABELS):
        y, p, found = labels[:, i], probs[:, i], told["labels"][label]
        tn, fp, fn, tp = confusion_matrix(y, p >= cut[i]).ravel()
        assert [found[key] for key in NUMBERS_AT_THRESHOLD] == pytest.approx(
            [tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn)]
        )
        assert found["auroc"] == pytest.approx(roc_auc_score(y, p))
        assert found["ap"] == pytest.approx(average_precision_score(y, p))
        assert found["brier"] == pytest.approx(brier_score_loss(y, p))
        constant = np.full(len(y), y.mean())
        skill = 1 - brier_score_loss(y, p) / brier_score_loss(y, constant)
        assert found["brier_skill"] == pytest.approx(skill)
        assert found["accuracy"] == pytest.approx(accuracy_score(y, p >= 0.5))
        assert found["accuracy_gain"] == pytest.approx(
            accuracy_score(y, p >= 0.5) - accuracy_score(y, np.zeros(len(y)))
        )
    assert told["macro_auroc"] == pytest.approx(roc_auc_score(labels, probs, average="macro"))
    assert told["ece"] == pytest.approx(np.mean([e["ece"] for e in told["labels"].values()]))
    assert told["undefined"] == []


def test_intervals_are_around_the_values_and_of_the_same_kind() -> None:
    told = told_of(*many_images(), n_resamples=2000)
    for each in told["labels"].values():
        assert each["auroc_ci"][0] < each["auroc"] < each["auroc_ci"][1]
        assert each["ap_ci"][0] < each["ap"] < each["ap_ci"][1]
        assert each["auroc_ci"] == pytest.approx(each["auroc_delong_ci"], abs=0.012)
    widths = [np.diff(each["auroc_ci"])[0] for each in told["labels"].values()]
    assert np.diff(told["macro_auroc_ci"])[0] < min(widths)  # the mean of 14 is surer than each


def test_images_without_patients_have_intervals_that_are_called_too_narrow() -> None:
    told = told_of(*many_images())["intervals"]
    assert told == {
        "level": 0.95, "unit": "image", "n_units": 400, "n_resamples": 200, "unsure": [],
        "note": TOO_NARROW,
    }  # fmt: skip


def test_images_of_one_patient_make_wider_intervals_and_no_delong() -> None:
    """Each image eight times: as much information as one, whatever their number says."""
    labels, probs, cut = many_images()
    eightfold = [np.repeat(each, 8, axis=0) for each in (labels, probs)]
    patients = np.repeat(np.arange(len(labels)), 8)
    told = told_of(*eightfold, cut, patients, 1000)
    once = told_of(labels, probs, cut, None, 1000)
    narrow = told_of(*eightfold, cut, None, 1000)
    width = {name: np.diff(t["macro_auroc_ci"])[0] for name, t in
             (("patients", told), ("once", once), ("images", narrow))}  # fmt: skip
    assert width["patients"] == pytest.approx(width["once"], rel=0.1)
    assert width["images"] == pytest.approx(width["once"] / np.sqrt(8), rel=0.1)
    assert told["intervals"]["n_units"] == 400
    assert told["intervals"]["note"] == NO_DELONG
    assert not any("auroc_delong_ci" in each for each in told["labels"].values())


def test_patients_with_one_image_each_are_independent() -> None:
    told = told_of(*many_images(), patients=np.arange(400)[::-1])
    assert told["intervals"]["unit"] == "patient" and "note" not in told["intervals"]
    assert all(each["auroc_delong_ci"] for each in told["labels"].values())


def test_few_positive_patients_are_called_unsure() -> None:
    labels, probs, cut = many_images()
    labels[:, :2] = 0
    labels[:24, :2] = 1  # images, of twelve patients
    assert told_of(labels, probs, cut)["intervals"]["unsure"] == []
    patients = np.arange(400) // 2
    assert told_of(labels, probs, cut, patients)["intervals"]["unsure"] == list(LABELS[:2])


def test_resamples_without_a_label_are_counted() -> None:
    labels, probs, cut = many_images()
    labels[:, 0] = 0
    labels[7, 0] = 1
    found = told_of(labels, probs, cut, n_resamples=1000)["labels"][LABELS[0]]
    assert found["resamples_left_out"] == pytest.approx(1000 * (1 - 1 / 400) ** 400, rel=0.15)
    assert found["auroc_ci"] is not None


def test_everything_undefined_is_named_with_its_reason() -> None:
    labels, probs, cut = four_images()
    told = told_of(labels, probs, cut)
    named = {
        (entry["label"], key): entry["why"]
        for entry in told["undefined"]
        for key in entry["what"].split(", ")
    }
    missing = {
        (label, key)
        for label, each in told["labels"].items()
        for key, v in each.items()
        if v is None
    }
    assert set(named) == missing
    assert named["hernia", "threshold"] == named["hernia", "ppv"] == "nothing to choose it on"
    assert named["hernia", "auroc"] == named["hernia", "brier_skill"] == ONE_CLASS
    assert named["edema", "specificity"] == "no negative image"
    assert named["edema", "npv"] == "no image is called negative"
    assert named["mass", "sensitivity"] == "no positive image"
    assert named["mass", "ppv"] == "no image is called positive"


def test_split_without_a_defined_label_has_no_macro() -> None:
    told = told_of(np.zeros((3, 14), np.uint8), np.full((3, 14), 0.2), np.full(14, np.nan))
    assert told["macro_auroc"] is None and told["macro_ap_ci"] is None
    assert (told["n_labels"], told["accuracy_gain"], told["brier_skill"]) == (0, 0, None)
    assert {"label": "all", "why": ONE_CLASS,
            "what": "macro_auroc, macro_auroc_ci, macro_ap, macro_ap_ci, brier_skill"} in told[
        "undefined"
    ]  # fmt: skip
    json.dumps(told, allow_nan=False)


def test_one_image_and_constant_predictions_are_told() -> None:
    labels = np.zeros((1, 14), np.uint8)
    labels[0, 0] = 1
    one = told_of(labels, np.full((1, 14), 0.3), np.full(14, 0.5))
    assert one["n_labels"] == 0 and one["labels"]["atelectasis"]["brier"] == pytest.approx(0.49)
    labels, _, cut = many_images()
    constant = told_of(labels, np.full(labels.shape, 0.3), cut)
    assert constant["macro_auroc"] == 0.5
    assert constant["macro_auroc_ci"] == [0.5, 0.5]
    assert constant["macro_ap"] == pytest.approx(labels.mean())
    for each in (one, constant):
        json.dumps(each, allow_nan=False)


def test_calibration_is_reported_before_and_after() -> None:
    labels, probs, _ = many_images()
    logits = 4 * np.log(probs / (1 - probs))  # far too sure
    decision = decisions.decide("cnn", labels, logits, "temperature", "youden", 0.9, TYPICAL)
    told = evaluate(labels, {"cnn": Predicted.by(decision, logits)}).models["cnn"]
    raw = decisions.decide("cnn", labels, logits, "none", "youden", 0.9, TYPICAL)
    before = evaluate(labels, {"cnn": Predicted.by(raw, logits)}).models["cnn"]
    assert "uncalibrated" not in before
    assert told["uncalibrated"] == {key: before[key] for key in ("brier", "brier_skill", "ece")}
    assert told["brier"] < before["brier"] and told["ece"] < before["ece"]
    assert told["macro_auroc"] == before["macro_auroc"]


def test_baselines_are_what_sklearn_finds_of_constants() -> None:
    labels, _, cut = many_images()
    for name, constant in zip(BASELINES, (np.zeros(14), labels.mean(axis=0)), strict=True):
        same = told_of(labels, np.broadcast_to(constant, labels.shape), cut)
        found = baselines(labels)[name]
        assert found == pytest.approx({key: same[key] for key in found})
        brier = [
            brier_score_loss(y, np.full(len(y), c)) for y, c in zip(labels.T, constant, strict=True)
        ]
        assert found["brier"] == pytest.approx(np.mean(brier))
    assert baselines(labels)["prevalence"]["brier_skill"] == pytest.approx(0)
    assert baselines(labels)["prevalence"]["ece"] == pytest.approx(0)


def test_baselines_leave_an_undefined_label_out_of_their_macro() -> None:
    labels, _, _ = four_images()
    assert baselines(labels)["all-negative"]["macro_ap"] == 0.5


def test_models_and_baselines_stand_in_one_table() -> None:
    labels, probs, cut = many_images()
    models = {name: Predicted(p, p, cut, "") for name, p in (("a", probs), ("b", probs[::-1]))}
    told = evaluate(labels, models)
    assert list(told.models) == ["a", "b", *BASELINES]
    assert {(each["a"], each["b"]) for each in told.comparisons} == {("a", "b")}


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert told_of(*many_images()) == told_of(*many_images())


@pytest.mark.skipif(not CHESTXRAY14.is_file(), reason=f"{CHESTXRAY14} is not here")
@pytest.mark.parametrize(
    ("split", "percent"), [("train", 94.857), ("val", 94.921), ("test", 94.743)]
)
def test_all_negative_on_chestxray14_is_the_known_accuracy(split: str, percent: float) -> None:
    with np.load(CHESTXRAY14) as file:
        told = baselines(file[f"{split}_labels"])["all-negative"]
    assert round(100 * told["accuracy"], 3) == percent


def test_a_perfect_model_has_no_interval_and_says_why() -> None:
    labels, _, cut = many_images()
    told = told_of(labels, labels * 0.8 + 0.1, cut)
    assert told["macro_auroc"] == 1 and told["macro_auroc_ci"] is None
    whys = {entry["why"] for entry in told["undefined"]}
    assert whys == {PERFECT}
    json.dumps(told, allow_nan=False)

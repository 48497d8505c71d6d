"""Every metric of a label equals that of the images whose label is known, and nothing else."""

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
)

from cxr.data.ood import OodReference
from cxr.evaluation import comparisons, decisions, intervals, metrics
from cxr.evaluation.description import NONE_KNOWN, Predicted, baselines
from cxr.evaluation.evaluate import Evaluation, evaluate
from cxr.evaluation.hard_examples import find_hard_examples
from cxr.labels import UNKNOWN

N, NAMES, SEED, N_RESAMPLES = 400, ("a", "b", "c", "d", "nowhere"), 3, 40
OOD = OodReference(np.arange(49.0) / 3, np.eye(49) / 7, 10.0, 60.0, 210.0, 20.0)


def nothing(done: int, total: int) -> None:
    """Progress that is not shown."""


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    rng = np.random.default_rng(0)
    y = (rng.random((N, 5)) < 0.2).astype(np.int8)
    y[rng.random((N, 5)) < 0.3] = UNKNOWN
    y[:, 4] = UNKNOWN
    return y


@pytest.fixture(scope="module")
def logits(labels: np.ndarray) -> np.ndarray:
    """Rounded, so that some are tied."""
    rng = np.random.default_rng(1)
    return np.round(rng.normal(size=(N, 5)) + (labels == 1) - 1, 1)


@pytest.fixture(scope="module")
def operating_point(labels: np.ndarray, logits: np.ndarray) -> decisions.OperatingPoint:
    return decisions.decide("cnn", labels, NAMES, logits, "platt", "youden", 0.9, OOD)


@pytest.fixture(scope="module")
def evaluated(
    labels: np.ndarray, logits: np.ndarray, operating_point: decisions.OperatingPoint
) -> Evaluation:
    models = {
        "cnn": Predicted.from_logits(operating_point, logits),
        "vit": Predicted.from_logits(operating_point, logits[::-1]),
    }
    return evaluate(labels, NAMES, models, patients(), N_RESAMPLES, SEED, nothing)


def patients() -> np.ndarray:
    """Up to three images each."""
    return np.arange(N) // 3


def known(labels: np.ndarray, values: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    rows = [i for i in range(N) if labels[i, label] != UNKNOWN]
    return labels[rows, label], values[rows, label]


@pytest.mark.parametrize("label", range(4))
def test_metrics_of_a_label_are_those_of_its_known_images(
    label: int, labels: np.ndarray, evaluated: Evaluation, operating_point: Any, logits: np.ndarray
) -> None:
    found = evaluated.models["cnn"]["labels"][NAMES[label]]
    y, z = known(labels, logits, label)
    probs = expit(
        operating_point.calibration.slopes[label] * z
        + operating_point.calibration.intercepts[label]
    )
    assert (found["n"], found["n_positive"]) == (len(y), y.sum()) and len(y) < N
    assert found["prevalence"] == pytest.approx(y.mean())
    assert found["auroc"] == pytest.approx(roc_auc_score(y, z))
    assert found["ap"] == pytest.approx(average_precision_score(y, z))
    assert found["brier"] == pytest.approx(brier_score_loss(y, probs))
    assert found["accuracy"] == pytest.approx(np.mean((probs >= 0.5) == y))
    assert found["ece"] == pytest.approx(calibration_error(y, probs))
    tn, fp, fn, tp = confusion_matrix(y, probs >= found["threshold"]).ravel()
    rates = (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn))
    assert [found[key] for key in ("sensitivity", "specificity", "ppv", "npv")] == pytest.approx(
        rates
    )


def calibration_error(y: np.ndarray, probs: np.ndarray) -> float:
    """Of bins between deciles of the probabilities, by a plain loop."""
    edges = np.quantile(probs, np.linspace(0, 1, 11))[1:-1]
    bins: dict[int, list[int]] = {}
    for i, p in enumerate(probs):
        bins.setdefault(int(sum(p > edge for edge in edges)), []).append(i)
    errors = [len(rows) * abs(probs[rows].mean() - y[rows].mean()) for rows in bins.values()]
    return sum(errors) / len(y)


@pytest.mark.parametrize("label", range(4))
@pytest.mark.parametrize(
    ("measure", "theirs"), [("auroc", roc_auc_score), ("ap", average_precision_score)]
)
def test_an_interval_is_that_of_a_loop_over_resamples_of_known_images(
    label: int, measure: str, theirs: Any, labels: np.ndarray, evaluated: Evaluation,
    logits: np.ndarray,
) -> None:  # fmt: skip
    y, z = known(labels, logits, label)
    resamples = intervals.draw(N, patients(), N_RESAMPLES, SEED)
    counts = np.concatenate(list(resamples.blocks()), axis=1)[labels[:, label] != UNKNOWN]
    values = [theirs(y, z, sample_weight=count) for count in counts.T]
    error = np.std(logit(values), ddof=1)
    found = evaluated.models["cnn"]["labels"][NAMES[label]]
    half = 1.959964 * error
    expected = expit(logit(found[measure]) + np.array([-half, half]))
    assert found[f"{measure}_ci"] == pytest.approx(list(expected))


def test_metrics_over_all_labels_count_known_values_only(
    labels: np.ndarray, evaluated: Evaluation, operating_point: Any, logits: np.ndarray
) -> None:
    found = evaluated.models["cnn"]
    cells = labels != UNKNOWN
    probs = operating_point.calibration.probs(logits)
    assert (found["n"], found["n_known"], found["n_labels"]) == (N, cells.sum(), 4)
    assert found["accuracy"] == pytest.approx(((probs >= 0.5) == labels)[cells].mean())
    assert found["accuracy_all_negative"] == pytest.approx((labels[cells] == 0).mean())
    of_labels = [found["labels"][name] for name in NAMES[:4]]
    for key in ("auroc", "ap"):
        assert found[f"macro_{key}"] == pytest.approx(np.mean([each[key] for each in of_labels]))
    for key in ("brier", "ece"):
        assert found[key] == pytest.approx(np.mean([each[key] for each in of_labels]))


def test_a_label_known_nowhere_is_undefined_and_named(evaluated: Evaluation) -> None:
    found = evaluated.models["cnn"]
    assert found["labels"]["nowhere"]["n"] == 0
    (why,) = (each for each in found["undefined"] if each["label"] == "nowhere")
    assert why["why"] == NONE_KNOWN
    missing = {key for key, value in found["labels"]["nowhere"].items() if value is None}
    assert set(why["what"].split(", ")) == missing
    assert {"auroc", "ap", "brier", "ece", "accuracy", "prevalence", "threshold"} <= missing


def test_labels_known_nowhere_leave_every_metric_undefined() -> None:
    unknown, probs = np.full((9, 2), UNKNOWN, np.int8), np.full((9, 2), 0.3)
    models = {"cnn": Predicted(probs, probs, np.full(2, np.nan), "no threshold")}
    found = evaluate(unknown, ("a", "b"), models, None, 20, 0, nothing).models["cnn"]
    (why,) = (each for each in found["undefined"] if each["label"] == "all")
    assert why["why"] == NONE_KNOWN and found["accuracy"] is None and found["n_known"] == 0


@pytest.mark.parametrize("method", ["temperature", "platt"])
@pytest.mark.parametrize("rule", ["youden", "f1", "sensitivity"])
def test_an_operating_point_is_that_of_the_known_images(
    method: Any, rule: Any, labels: np.ndarray, logits: np.ndarray
) -> None:
    """Compared label by label with one chosen on a data set of that label's known images."""
    found = decisions.decide("cnn", labels, NAMES, logits, method, rule, 0.8, OOD)
    for label in range(4):
        y, z = known(labels, logits, label)
        if method == "platt":
            alone = decisions.calibrate(y[:, None], z[:, None], "platt")
            assert found.calibration.slopes[label] == pytest.approx(alone.slopes[0])
            assert found.calibration.intercepts[label] == pytest.approx(alone.intercepts[0])
        probs = found.calibration.probs(logits)[labels[:, label] != UNKNOWN, label]
        expected = decisions.thresholds(y[:, None], probs[:, None], rule, 0.8)
        assert found.thresholds[label] == pytest.approx(expected[0])
    assert np.isnan(found.thresholds[4]) and found.as_json()["thresholds"]["nowhere"] is None


def test_delongs_test_uses_images_of_known_label(labels: np.ndarray, logits: np.ndarray) -> None:
    scores = {"a": logits, "b": np.round(logits + 0.5 * logits[::-1], 1)}
    resamples = intervals.draw(N, None, N_RESAMPLES, SEED)
    estimates = intervals.estimate(labels, scores, resamples, nothing)
    compared = comparisons.compare(labels, NAMES, scores, estimates, independent=True)
    by_label = {e["label"]: e for e in compared if e["metric"] == "auroc"}
    for label, name in enumerate(NAMES[:4]):
        y, _ = known(labels, logits, label)
        both = np.stack([known(labels, each, label)[1] for each in scores.values()])
        assert by_label[name]["p_delong"] == pytest.approx(comparisons.delong_p(y, both))
    assert by_label["nowhere"]["p_delong"] is None


def test_the_prevalence_baseline_predicts_the_share_of_known_images(labels: np.ndarray) -> None:
    found = baselines(labels)["prevalence"]
    of_labels = [known(labels, np.zeros((N, 5)), label)[0] for label in range(4)]
    shares = [y.mean() for y in of_labels]
    assert found["brier"] == pytest.approx(np.mean([p * (1 - p) for p in shares]))
    assert found["macro_ap"] == pytest.approx(np.mean(shares))
    assert found["n_labels"] == 4


def test_an_unknown_label_adds_no_loss_to_a_hard_example() -> None:
    labels = np.array([[0, UNKNOWN], [0, 1], [1, 0]], np.int8)
    probs = np.array([[0.1, 1e-9], [0.1, 0.2], [0.9, 0.1]])
    found = find_hard_examples(labels, [probs], 3)
    assert found.index.tolist() == [1, 2, 0]
    assert found.loss[2] == pytest.approx(-np.log(0.9))


def test_an_image_without_known_labels_is_no_hard_example() -> None:
    labels = np.array([[UNKNOWN, UNKNOWN], [0, UNKNOWN], [1, 1]], np.int8)
    found = find_hard_examples(labels, [np.full((3, 2), 0.4)], 24)
    assert found.index.tolist() == [2, 1]


def test_a_temperature_is_fitted_to_the_known_labels_of_all_columns() -> None:
    rng = np.random.default_rng(4)
    y = (rng.random((500, 2)) < 0.3).astype(np.int8)
    z = 3 * (rng.normal(size=(500, 2)) + y - 1)
    y[rng.random((500, 2)) < 0.4] = UNKNOWN
    is_known = y != UNKNOWN
    alone = decisions.decide(
        "cnn", y[is_known][:, None], ("all",), z[is_known][:, None], "temperature", "f1", 0.9, OOD
    )
    both = decisions.decide("cnn", y, ("a", "b"), z, "temperature", "f1", 0.9, OOD)
    assert alone.calibration.slopes[0] != pytest.approx(1, abs=0.1)
    assert both.calibration.slopes == pytest.approx([alone.calibration.slopes[0]] * 2, rel=1e-6)


def test_positives_and_unknowns_alone_are_one_class() -> None:
    y = np.array([[1, 0, 1], [UNKNOWN, UNKNOWN, 0], [1, 0, UNKNOWN]], np.int8)
    assert metrics.has_both_classes(y).tolist() == [False, False, True]

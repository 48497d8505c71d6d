"""Calibration and thresholds, checked against sklearn, scipy and exact fractions."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from cxr.data.ood import OodReference
from cxr.evaluation import decisions
from cxr.evaluation.decisions import Rule
from cxr.evaluation.metrics import sigmoid
from cxr.labels import CHESTMNIST

RULES = ("youden", "f1", "sensitivity")
OOD = OodReference(np.arange(49.0) / 3, np.eye(49) / 7, 10.0, 60.0, 210.0, 20.0)


def cases(n: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Small columns (y, probs) with both classes and many tied probabilities."""
    rng = np.random.default_rng(seed)
    columns = []
    while len(columns) < n:
        size = rng.integers(3, 30)
        y = (rng.random(size) < 0.35).astype(np.uint8)
        if 0 < y.sum() < size:
            columns.append((y, np.round(0.6 * rng.random(size) + 0.3 * y, 1)))
    return columns


def best_threshold(y: np.ndarray, probs: np.ndarray, rule: str, sensitivity: Fraction) -> float:
    """The highest of the best thresholds, in exact fractions."""
    values = []
    for cut in set(probs):
        positive, n_positive = probs >= cut, int(y.sum())
        true, false = int((positive & (y == 1)).sum()), int((positive & (y == 0)).sum())
        value = {
            "youden": Fraction(true, n_positive) - Fraction(false, len(y) - n_positive),
            "f1": Fraction(2 * true, true + false + n_positive),
            "sensitivity": Fraction(int(Fraction(true, n_positive) >= sensitivity)),
        }[rule]
        values.append((value, float(cut)))
    return max(values)[1]


def one_column(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1)


@pytest.mark.parametrize("rule", RULES)
def test_threshold_is_the_highest_of_the_best(rule: Rule) -> None:
    for y, probs in cases(500):
        for tenths in (3, 7, 9, 10):
            chosen = decisions.thresholds(one_column(y), one_column(probs), rule, tenths / 10)[0]
            assert chosen == best_threshold(y, probs, rule, Fraction(tenths, 10))


@pytest.mark.parametrize(("rule", "cut"), [("youden", 0.3), ("f1", 0.8), ("sensitivity", 0.8)])
def test_thresholds_of_a_hand_computed_case(rule: Rule, cut: float) -> None:
    """Positives at 0.9, 0.8 and 0.3 among ten images; a sensitivity of 0.6 is required.

    At 0.8 sensitivity is 2/3 and specificity 1: J = 0.67 and F1 = 4/5.
    At 0.3 the two false positives cost 2/7: J = 0.71, F1 = 6/8.
    """
    y = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0], np.uint8)
    probs = np.array([0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 0.2, 0.1, 0.1, 0.0])
    assert decisions.thresholds(one_column(y), one_column(probs), rule, 0.6)[0] == cut


def test_a_sensitivity_that_is_reached_exactly_counts() -> None:
    """0.55 * 100 > 55 in floating point."""
    y, probs = np.ones(101, np.uint8), np.linspace(1, 0, 101)
    y[-1] = 0
    assert (
        decisions.thresholds(one_column(y), one_column(probs), "sensitivity", 0.55)[0] == probs[54]
    )


def test_threshold_of_a_label_with_one_class_is_nan() -> None:
    y = np.array([[1, 0, 1], [0, 0, 1]], np.uint8)
    for rule in RULES:
        cut = decisions.thresholds(y, np.array([[0.9, 0.5, 0.5], [0.1, 0.5, 0.4]]), rule, 0.9)
        assert cut[0] == 0.9 and np.isnan(cut[1:]).all()


def miscalibrated(n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Three labels whose logits are three times too large and shifted by one."""
    rng = np.random.default_rng(0)
    truth = rng.normal(-1.5, 1.2, (n, 3))
    return (rng.random((n, 3)) < sigmoid(truth)).astype(np.uint8), 3 * truth + 1


def test_temperature_minimises_cross_entropy() -> None:
    labels, logits = miscalibrated()
    calibration = decisions.calibrate(labels, logits, "temperature")
    best = minimize_scalar(
        lambda t: log_loss(labels.ravel(), sigmoid(logits / t).ravel()), bounds=(0.1, 20)
    )
    assert calibration.slopes == pytest.approx(1 / best.x, rel=1e-4)
    assert (calibration.intercepts == 0).all()
    assert len(set(calibration.slopes)) == 1


def test_temperature_of_one_label_equals_sklearns() -> None:
    """For a classifier whose decision function is the logit."""
    labels, logits = miscalibrated()
    y, x = labels[:, 0], logits[:, :1]
    classifier = LogisticRegression().fit([[-1.0], [1.0]], [0, 1])
    classifier.coef_, classifier.intercept_ = np.array([[1.0]]), np.array([0.0])
    reference = CalibratedClassifierCV(FrozenEstimator(classifier), method="temperature").fit(x, y)
    calibration = decisions.calibrate(labels[:, :1], x, "temperature")
    np.testing.assert_allclose(
        calibration.probs(x)[:, 0], reference.predict_proba(x)[:, 1], atol=1e-4
    )


def test_platt_equals_sklearns() -> None:
    labels, logits = miscalibrated()
    calibration = decisions.calibrate(labels, logits, "platt")
    classifier = LogisticRegression().fit([[-1.0], [1.0]], [0, 1])
    classifier.coef_, classifier.intercept_ = np.array([[1.0]]), np.array([0.0])
    for i in range(3):
        x = logits[:, i : i + 1]
        reference = CalibratedClassifierCV(FrozenEstimator(classifier), method="sigmoid").fit(
            x, labels[:, i]
        )
        np.testing.assert_allclose(
            calibration.probs(logits)[:, i], reference.predict_proba(x)[:, 1], atol=1e-4
        )
    assert calibration.slopes == pytest.approx(1 / 3, abs=0.05)
    assert calibration.intercepts == pytest.approx(-1 / 3, abs=0.15)


def test_without_calibration_probabilities_are_the_sigmoid_of_the_logits() -> None:
    labels, logits = miscalibrated()
    calibration = decisions.calibrate(labels, logits, "none")
    assert np.array_equal(calibration.probs(logits), sigmoid(logits))


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_calibration_never_reverses_the_ranking(
    method: decisions.Method,
) -> None:
    labels, logits = miscalibrated()
    probs = decisions.calibrate(labels, -logits, method).probs(-logits)
    for i in range(3):
        assert (np.diff(probs[np.argsort(-logits[:, i], kind="stable"), i]) >= 0).all()
        assert len(np.unique(probs[:, i])) > 2000


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_a_label_of_one_class_is_not_used_for_calibration(method: decisions.Method) -> None:
    labels, logits = miscalibrated()
    without = decisions.calibrate(labels[:, :2], logits[:, :2], method)
    labels[:, 2] = 0
    calibration = decisions.calibrate(labels, logits, method)
    np.testing.assert_array_equal(calibration.slopes[:2], without.slopes)
    alone = decisions.calibrate(labels[:, 2:], logits[:, 2:], method)
    assert (alone.slopes[0], alone.intercepts[0]) == (1, 0)
    if method == "platt":
        assert (calibration.slopes[2], calibration.intercepts[2]) == (1, 0)


def test_separable_labels_get_a_finite_calibration() -> None:
    y, logits = np.array([[0], [0], [1], [1]], np.uint8), np.array([[-2.0], [-1], [1], [2]])
    for method in ("temperature", "platt"):
        calibration = decisions.calibrate(y, logits, method)
        assert np.isfinite(calibration.probs(logits)).all()
        assert calibration.slopes[0] <= decisions.SLOPES[1]


def test_thresholds_are_chosen_on_calibrated_probabilities() -> None:
    labels, logits = miscalibrated()
    operating_point = decisions.decide(
        "cnn", labels, CHESTMNIST[: labels.shape[1]], logits, "platt", "youden", 0.9, OOD
    )
    raw = decisions.decide(
        "cnn", labels, CHESTMNIST[: labels.shape[1]], logits, "none", "youden", 0.9, OOD
    )
    positive = operating_point.calibration.probs(logits) >= operating_point.thresholds
    assert (positive == (sigmoid(logits) >= raw.thresholds)).all()
    assert (operating_point.thresholds != raw.thresholds).all()


def test_an_operating_point_is_read_back_from_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 14)) < 0.3).astype(np.uint8)
    labels[:, CHESTMNIST.index("hernia")] = 0
    logits = rng.normal(size=(60, 14)).astype(np.float32)
    operating_point = decisions.decide("vit", labels, CHESTMNIST, logits, "platt", "f1", 0.9, OOD)
    path = tmp_path / "vit.json"
    path.write_text(json.dumps(operating_point.as_json(), allow_nan=False))
    again = decisions.read(path)
    assert (again.model, again.rule, again.calibration.method) == ("vit", "f1", "platt")
    assert json.loads(path.read_text())["thresholds"]["hernia"] is None
    np.testing.assert_array_equal(again.thresholds, operating_point.thresholds)
    np.testing.assert_array_equal(again.ood.mean, OOD.mean)
    np.testing.assert_array_equal(again.ood.whitening, OOD.whitening)
    assert again.ood.as_json() == OOD.as_json()
    np.testing.assert_array_equal(
        again.calibration.probs(logits), operating_point.calibration.probs(logits)
    )

"""Reliability, calibration error and Brier score, checked against sklearn, numpy and simulation."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from cxr.evaluation.calibration import brier, brier_of_prevalence, reliability


def example(decimals: int, n: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    probs = np.round(rng.beta(1, 8, n), decimals)
    return (rng.random(n) < probs).astype(np.uint8), probs


@pytest.mark.parametrize("decimals", [8, 2, 1])
def test_bins_equal_those_of_sklearn(decimals: int) -> None:
    y, probs = example(decimals)
    share, mean = calibration_curve(y, probs, n_bins=10, strategy="quantile")
    result = reliability(y, probs)
    np.testing.assert_allclose(result.share_positive, share)
    np.testing.assert_allclose(result.mean_prob, mean)
    assert result.n.sum() == len(y)


def test_bins_hold_the_same_number_of_images() -> None:
    assert (reliability(*example(8)).n == 100).all()


def test_error_of_a_hand_computed_case() -> None:
    """Ten bins of two images without positives: the error is the mean probability."""
    probs = np.repeat(np.linspace(0, 0.9, 10), 2)
    y = np.zeros(20, np.uint8)
    result = reliability(y, probs)
    assert result.error == pytest.approx(np.mean(np.linspace(0, 0.9, 10)))
    assert reliability(np.array([0, 1], np.uint8), np.array([0.5, 0.5])).error == 0


def test_constant_probabilities_make_one_bin() -> None:
    y = np.array([1, 0, 0, 0], np.uint8)
    result = reliability(y, np.full(4, 0.4))
    assert (result.n.tolist(), result.share_positive.tolist()) == ([4], [0.25])
    assert result.error == pytest.approx(0.15)


def test_one_image_has_a_calibration_error() -> None:
    result = reliability(np.array([1], np.uint8), np.array([0.3]))
    assert result.error == pytest.approx(0.7)


def test_error_by_chance_is_the_mean_error_of_exact_probabilities() -> None:
    rng = np.random.default_rng(1)
    probs = np.repeat(rng.beta(1, 8, 10), 50)  # each bin's probabilities are its mean
    errors = [
        reliability((rng.random(500) < probs).astype(np.uint8), probs).error for _ in range(4000)
    ]
    expected = reliability(np.zeros(500, np.uint8), probs).error_by_chance
    assert np.mean(errors) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_probabilities_of_0_or_1_have_no_error_by_chance(value: float) -> None:
    assert reliability(np.zeros(5, np.uint8), np.full(5, value)).error_by_chance == 0


def test_brier_equals_sklearns() -> None:
    y, probs = example(8)
    assert brier(y, probs) == pytest.approx(brier_score_loss(y, probs))
    two_labels = np.stack([y, y[::-1]], axis=1), np.stack([probs, probs], axis=1)
    expected = [brier_score_loss(y, probs), brier_score_loss(y[::-1], probs)]
    np.testing.assert_allclose(brier(*two_labels), expected)


def test_prevalence_is_the_best_constant() -> None:
    y, _ = example(8)
    constants = np.linspace(0, 1, 1001)
    smallest = min(brier_score_loss(y, np.full(len(y), c)) for c in constants)
    assert brier_of_prevalence(y) == pytest.approx(smallest, abs=1e-6)
    assert brier_of_prevalence(y) == pytest.approx(brier_score_loss(y, np.full(len(y), y.mean())))

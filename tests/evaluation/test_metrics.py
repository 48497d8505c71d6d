"""Metrics, checked by pair counts, hand-computed cases, sklearn and published numbers."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.evaluation import metrics

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
PREDICTIONS = SHARED / "predictions"


def cases(n: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Small columns (y, scores) with both classes and many tied scores."""
    rng = np.random.default_rng(seed)
    columns = []
    while len(columns) < n:
        size = rng.integers(3, 30)
        y = (rng.random(size) < 0.35).astype(np.uint8)
        if 0 < y.sum() < size:
            columns.append((y, np.round(0.6 * rng.random(size) + 0.3 * y, 1)))
    return columns


def counted_auroc(y: np.ndarray, scores: np.ndarray) -> float:
    """Fraction of (positive, negative) pairs in the right order; a tie counts half."""
    pairs = list(itertools.product(scores[y == 1], scores[y == 0]))
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


def summed_ap(y: np.ndarray, scores: np.ndarray) -> float:
    """Sum of precision times the step in recall; tied scores make one step."""
    total, true_before = 0.0, 0
    for cut in sorted(set(scores), reverse=True):
        positive = scores >= cut
        true = int(y[positive].sum())
        total += (true - true_before) / y.sum() * true / positive.sum()
        true_before = true
    return total


def one_column(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1)


def test_metrics_of_a_hand_computed_case() -> None:
    # Positives at 3 and 2, negatives at 2 and 1: pairs 1, 1, 1/2, 1. AP: 1/2 * 1 + 1/2 * 2/3.
    y, scores = np.array([[1], [1], [0], [0]], np.uint8), np.array([[3.0], [2.0], [2.0], [1.0]])
    assert metrics.auroc(y, scores)[0] == pytest.approx(3.5 / 4)
    assert metrics.average_precision(y, scores)[0] == pytest.approx(1 / 2 + 1 / 3)


def test_metrics_with_ties_equal_pair_counts_and_sklearn() -> None:
    for y, scores in cases(300):
        auroc = metrics.auroc(one_column(y), one_column(scores))[0]
        assert auroc == pytest.approx(counted_auroc(y, scores), abs=1e-12)
        assert auroc == pytest.approx(roc_auc_score(y, scores), abs=1e-12)
        precision = metrics.average_precision(one_column(y), one_column(scores))[0]
        assert precision == pytest.approx(summed_ap(y, scores), abs=1e-12)
        assert precision == pytest.approx(average_precision_score(y, scores), abs=1e-12)


def test_each_label_is_measured_on_its_own_column() -> None:
    rng = np.random.default_rng(1)
    y, scores = (rng.random((40, 5)) < 0.4).astype(np.uint8), rng.normal(size=(40, 5))
    for measure, reference in (
        (metrics.auroc, counted_auroc),
        (metrics.average_precision, summed_ap),
    ):
        assert np.allclose(
            measure(y, scores), [reference(*c) for c in zip(y.T, scores.T, strict=True)]
        )


def test_auroc_of_logits_equals_that_of_their_probabilities() -> None:
    rng = np.random.default_rng(1)
    y = (rng.random((200, 2)) < 0.4).astype(np.uint8)
    logits = rng.normal(scale=8, size=(200, 2)).astype(np.float32)
    assert np.array_equal(metrics.auroc(y, logits), metrics.auroc(y, metrics.sigmoid(logits)))


def test_a_label_with_one_class_is_left_out_of_the_macro_average() -> None:
    y = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]], np.uint8)
    scores = np.array([[0.5, 0.1, 0.3], [0.9, 0.2, 0.2], [0.1, 0.3, 0.1]])
    for measure, first in ((metrics.auroc, 0.5), (metrics.average_precision, 0.5)):
        values = measure(y, scores)
        assert np.isnan(values).tolist() == [False, True, True]
        assert values[0] == pytest.approx(first)
        assert metrics.macro(values) == pytest.approx(first)


@pytest.mark.parametrize(
    ("values", "mean"),
    [([0.2, 0.6], 0.4), ([0.2, np.nan, 0.6], 0.4), ([np.nan, np.nan], np.nan)],
)
def test_macro_is_the_mean_of_defined_values(values: list[float], mean: float) -> None:
    assert metrics.macro(np.array(values)) == pytest.approx(mean, nan_ok=True)


def test_sigmoid_is_double_precision_and_bounded() -> None:
    logits = np.concatenate([np.linspace(-40, 40, 801), [-1000, -700, 700, 1000]])
    with np.errstate(all="raise", under="ignore"):
        probs = metrics.sigmoid(logits)
    assert np.allclose(probs, expit(logits), rtol=1e-12, atol=0)
    assert (probs[-4], probs[-1]) == (0, 1)
    single = metrics.sigmoid(np.array([-30], np.float32))
    assert single.dtype == np.float64 and single[0] == pytest.approx(expit(-30.0), rel=1e-14)


@pytest.mark.skipif(not PREDICTIONS.is_dir(), reason=f"{PREDICTIONS} is not here")
@pytest.mark.parametrize(
    ("name", "published"), [("densenet121_seed0", 0.7025), ("vit_small_seed0", 0.6755)]
)
def test_macro_auroc_of_published_predictions_equals_the_published_one(
    name: str, published: float
) -> None:
    with np.load(PREDICTIONS / f"{name}.npz") as file:
        aurocs = metrics.auroc(file["test_labels"].astype(np.uint8), file["test_logits"])
    assert round(metrics.macro(aurocs), 4) == published

"""Thinned curves keep their end points and area; hard examples are found."""

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, log_loss, roc_auc_score

from cxr.evaluation.curves import MAX_POINTS, precision_recall, roc
from cxr.evaluation.hard_examples import cross_entropy, find_hard_examples


def example(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = (rng.random(n) < 0.2).astype(np.uint8)
    return y, rng.normal(size=n) + y


@pytest.mark.parametrize("n", [10, 20_000])
def test_a_thinned_roc_keeps_its_area(n: int) -> None:
    y, scores = example(n)
    curve = roc(y, scores)
    assert len(curve.x) <= MAX_POINTS
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert auc(curve.x, curve.y) == pytest.approx(roc_auc_score(y, scores), abs=1e-4)


def test_precision_recall_omits_the_point_added_by_sklearn() -> None:
    """The highest score is that of a negative, so precision starts at 0."""
    y, scores = np.array([0, 1, 1, 0], np.uint8), np.array([4.0, 3.0, 2.0, 1.0])
    curve = precision_recall(y, scores)
    points = set(zip(curve.x.tolist(), curve.y.tolist(), strict=True))
    assert (0.0, 0.0) in points and (0.5, 0.5) in points and (1.0, 2 / 3) in points
    assert (0.0, 1.0) not in points
    assert (np.diff(curve.x) >= 0).all()


def test_a_thinned_precision_recall_curve_keeps_its_area() -> None:
    y, scores = example(20_000)
    curve = precision_recall(y, scores)
    assert len(curve.x) <= MAX_POINTS
    assert auc(curve.x, curve.y) == pytest.approx(average_precision_score(y, scores), abs=0.01)


def test_cross_entropy_equals_sklearns() -> None:
    rng = np.random.default_rng(0)
    labels, probs = (rng.random((50, 3)) < 0.3).astype(np.uint8), rng.random((50, 3))
    loss = cross_entropy(labels, probs)
    for i in range(3):
        assert loss[:, i].mean() == pytest.approx(log_loss(labels[:, i], probs[:, i]))
    assert np.isfinite(cross_entropy(labels, labels[::-1].astype(float))).all()


def test_an_image_hard_for_all_models_is_found_before_one_hard_for_one() -> None:
    labels = np.zeros((5, 3), np.uint8)
    labels[3, 1] = 1
    right = np.full((5, 3), 0.1)
    one_error = right.copy()
    one_error[2, 0] = 0.95  # a larger error, but of one model only
    examples = find_hard_examples(labels, [right, right, one_error], 2)
    assert examples.index.tolist() == [3, 2]
    assert examples.label.tolist() == [1, 0]
    assert examples.loss[0] == pytest.approx(-np.log(0.1) - 2 * np.log(0.9))


def test_images_of_equal_loss_keep_their_order() -> None:
    examples = find_hard_examples(np.zeros((3, 2), np.uint8), [np.full((3, 2), 0.5)], 24)
    assert examples.index.tolist() == [0, 1, 2]

"""Thinned curves keep their ends and their area; surprising images are found."""

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, log_loss, roc_auc_score

from cxr.evaluation.curves import MOST_POINTS, precision_recall, roc
from cxr.evaluation.hard_examples import cross_entropy, most_surprising


def example(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = (rng.random(n) < 0.2).astype(np.uint8)
    return y, rng.normal(size=n) + y


@pytest.mark.parametrize("n", [10, 20_000])
def test_roc_has_the_area(n: int) -> None:
    y, scores = example(n)
    curve = roc(y, scores)
    assert len(curve.x) <= MOST_POINTS
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert auc(curve.x, curve.y) == pytest.approx(roc_auc_score(y, scores), abs=1e-4)


def test_precision_recall_has_its_points_and_no_invented_one() -> None:
    """The highest score is a negative's, so precision starts at 0."""
    y, scores = np.array([0, 1, 1, 0], np.uint8), np.array([4.0, 3.0, 2.0, 1.0])
    curve = precision_recall(y, scores)
    points = set(zip(curve.x.tolist(), curve.y.tolist(), strict=True))
    assert (0.0, 0.0) in points and (0.5, 0.5) in points and (1.0, 2 / 3) in points
    assert (0.0, 1.0) not in points
    assert (np.diff(curve.x) >= 0).all()


def test_precision_recall_of_many_images_has_the_area() -> None:
    y, scores = example(20_000)
    curve = precision_recall(y, scores)
    assert len(curve.x) <= MOST_POINTS
    assert auc(curve.x, curve.y) == pytest.approx(average_precision_score(y, scores), abs=0.01)


def test_cross_entropy_is_sklearns() -> None:
    rng = np.random.default_rng(0)
    labels, probs = (rng.random((50, 3)) < 0.3).astype(np.uint8), rng.random((50, 3))
    found = cross_entropy(labels, probs)
    for i in range(3):
        assert found[:, i].mean() == pytest.approx(log_loss(labels[:, i], probs[:, i]))
    assert np.isfinite(cross_entropy(labels, labels[::-1].astype(float))).all()


def test_the_image_that_all_models_deny_is_found_first() -> None:
    labels = np.zeros((5, 3), np.uint8)
    labels[3, 1] = 1
    sure = np.full((5, 3), 0.1)
    one_errs = sure.copy()
    one_errs[2, 0] = 0.95  # worse than the other, but one model alone says so
    found = most_surprising(labels, [sure, sure, one_errs], 2)
    assert found.index.tolist() == [3, 2]
    assert found.label.tolist() == [1, 0]
    assert found.loss[0] == pytest.approx(-np.log(0.1) - 2 * np.log(0.9))


def test_fewer_images_than_asked_for_and_equal_ones_keep_their_order() -> None:
    found = most_surprising(np.zeros((3, 2), np.uint8), [np.full((3, 2), 0.5)], 24)
    assert found.index.tolist() == [0, 1, 2]
